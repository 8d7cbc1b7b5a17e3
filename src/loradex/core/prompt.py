"""What a user asks: text, token ids, or a conversation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation; `content` is plain text."""

    role: str
    content: str
    name: str | None = None


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """A conversation that the engine renders with the chat template of its tokenizer.

    `continue_final_message` leaves the last turn open so that the answer continues it; it excludes
    `add_generation_prompt`. `template` replaces the tokenizer's own, `template_kwargs` are passed to it.
    """

    messages: tuple[Message, ...]
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    template: str | None = None
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)


Prompt = str | tuple[int, ...] | ChatPrompt
"""Text to tokenize (special tokens added as the model expects), token ids as they are, or a conversation."""
