"""PEFT's side: loads a base and adapters, then answers batches that come as lines of JSON. Knows nothing of Loradex."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, StoppingCriteria, StoppingCriteriaList

BASE = "__base__"
"""What PEFT calls a row without an adapter."""


class Clock(StoppingCriteria):
    """Notes when each token of the batch was there; never stops anything."""

    def __init__(self) -> None:
        self.began = time.perf_counter()
        self.seconds: list[float] = []

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        """Note the time."""
        self.seconds.append(time.perf_counter() - self.began)
        return torch.zeros(input_ids.shape[0], dtype=torch.bool)


def load(base: str, adapters: list[str], dtype: str) -> Any:
    """Load base and adapters in one dtype, as ours are."""
    model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
    for index, path in enumerate(adapters):
        if index == 0:
            model = PeftModel.from_pretrained(model, path, adapter_name="0", autocast_adapter_dtype=False)
        else:
            model.load_adapter(path, adapter_name=str(index), autocast_adapter_dtype=False)
    return model.to(getattr(torch, dtype)).eval()


@torch.inference_mode()
def answer(model: Any, question: dict[str, Any]) -> dict[str, Any]:
    """Generate for a batch; shorter prompts are padded on the left."""
    prompts, output = question["prompts"], question["output"]
    longest = max(len(prompt) for prompt in prompts)
    ids = torch.tensor([[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts])
    seen = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    mixed = {"adapter_names": [BASE if each is None else str(each) for each in question["adapters"]]}
    clock = Clock()
    model.generate(
        input_ids=ids,
        attention_mask=seen,
        do_sample=False,
        max_new_tokens=output,
        min_new_tokens=output,
        pad_token_id=0,
        stopping_criteria=StoppingCriteriaList([clock]),
        **(mixed if isinstance(model, PeftModel) else {}),
    )
    return {"seconds": clock.seconds}


def main() -> None:
    """Answer until the input ends."""
    given = json.loads(Path(sys.argv[1]).read_text())
    model = load(given["base"], given["adapters"], given["dtype"])
    for line in sys.stdin:
        question = json.loads(line)
        print(json.dumps(answer(model, question) if question else {}), flush=True)


if __name__ == "__main__":
    main()
