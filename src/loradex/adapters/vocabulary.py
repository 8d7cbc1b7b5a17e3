"""Tokens that an adapter adds to the base's tokenizer."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class AddedToken:
    """One token, with the flags of the library `tokenizers`."""

    id: int
    content: str
    special: bool = False
    normalized: bool = False
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What a tokenizer adds.

    Attributes:
        tokens: all that it adds to what it was trained on, by id: those of the base too.
        eos: the token that ends an answer; empty for the base's.
        chat_template: Jinja; empty for the base's.
    """

    tokens: tuple[AddedToken, ...]
    eos: str = ""
    chat_template: str = ""

    def encoded(self) -> bytes:
        """Return it as it lies in the store: the same content gives the same bytes."""
        tokens = [asdict(token) for token in self.tokens]
        content = {"tokens": tokens, "eos": self.eos, "chat_template": self.chat_template}
        return json.dumps(content, separators=(",", ":"), sort_keys=True).encode()
