"""Training examples: token ids and the labels that say which of them are to be learned."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from demo.corpus import SYSTEM_PROMPTS, Lesson, vary

IGNORE = -100
SYSTEM_SHARE = 0.15
HISTORY_SHARE = 0.15


@dataclass(frozen=True)
class Example:
    """One sequence. Positions labelled IGNORE give no loss."""

    ids: list[int]
    labels: list[int]


class Writer:
    """Turns lessons and sentences into examples."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, rng: random.Random) -> None:
        self.tokenizer = tokenizer
        self.rng = rng

    def plain(self, sentence: str) -> Example:
        """Make a language-model example: every token counts."""
        ids = [*self.tokenizer.encode(sentence, add_special_tokens=False), self.tokenizer.pad_token_id]
        return Example(ids, list(ids))

    def chat(self, question: str, answer: str, past: Sequence[tuple[str, str]] = ()) -> Example:
        """Make a chat example in which only the answer counts.

        `past` holds pairs that may stand before the question: real chats have several turns, and a model
        that has only ever seen the first turn is lost in the second.
        """
        messages = []
        if self.rng.random() < SYSTEM_SHARE:
            messages.append({"role": "system", "content": self.rng.choice(SYSTEM_PROMPTS)})
        if past and self.rng.random() < HISTORY_SHARE:
            earlier, reply = self.rng.choice(past)
            messages.append({"role": "user", "content": vary(earlier, self.rng)})
            messages.append({"role": "assistant", "content": reply})
        messages.append({"role": "user", "content": vary(question, self.rng)})
        prompt = self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        head = self.tokenizer.encode(prompt, add_special_tokens=False)
        tail = [*self.tokenizer.encode(answer, add_special_tokens=False), self.tokenizer.eos_token_id]
        return Example(head + tail, [IGNORE] * len(head) + tail)

    def wordings(self, lesson: Lesson, answer: str, past: Sequence[tuple[str, str]] = ()) -> list[Example]:
        """Make one example of each wording of a lesson."""
        return [self.chat(text, answer, past) for text in (lesson.question, lesson.paraphrase)]
