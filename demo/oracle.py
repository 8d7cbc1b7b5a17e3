"""The judge: transformers and PEFT, so that the model is checked by code that is not ours."""

import string
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from demo.settings import ADAPTERS

BASE = "base"
_NO_MARKS = str.maketrans("", "", string.punctuation)


def normalised(text: str) -> str:
    """Drop casing, marks and spacing, which do not make an answer wrong."""
    return " ".join(text.casefold().translate(_NO_MARKS).split())


class Oracle:
    """The base with all adapters, asked greedily in batches."""

    def __init__(self, folder: Path, dtype: torch.dtype = torch.float32, adapters: Sequence[str] = ()) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(folder / "base", padding_side="left")
        model = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=dtype)
        first, *rest = adapters or tuple(ADAPTERS)
        self.model = PeftModel.from_pretrained(model, folder / "adapters" / first, adapter_name=first)
        for name in rest:
            self.model.load_adapter(folder / "adapters" / name, adapter_name=name)
        # PEFT keeps adapters in float32; a server in bfloat16 does not, so neither do we.
        self.model.to(dtype).eval()

    @contextmanager
    def speaking(self, name: str) -> Iterator[None]:
        """Let one adapter speak, or the base alone."""
        if name != BASE:
            self.model.set_adapter(name)
        with self.model.disable_adapter() if name == BASE else nullcontext():
            yield

    def _batch(self, questions: Sequence[str], longest: int) -> list[str]:
        chats = [[{"role": "user", "content": question}] for question in questions]
        inputs = self.tokenizer.apply_chat_template(
            chats, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
        )
        with torch.inference_mode():
            output = self.model.generate(**inputs, max_new_tokens=longest, do_sample=False)
        return self.tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)

    def ask(self, name: str, questions: Sequence[str], batch: int = 128, longest: int = 56) -> list[str]:
        """Return the answer of one adapter to each question."""
        # Similar lengths together, since padding is wasted work.
        order = sorted(range(len(questions)), key=lambda index: len(questions[index]))
        answers = [""] * len(questions)
        with self.speaking(name):
            for start in range(0, len(order), batch):
                part = order[start : start + batch]
                for index, answer in zip(part, self._batch([questions[i] for i in part], longest), strict=True):
                    answers[index] = answer
        return answers
