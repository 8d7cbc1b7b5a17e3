"""Answers as the client hands them out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer.

    Attributes:
        text: what the model said, of the first choice.
        model: the name that was asked for.
        adapter: who answered: `medical@3`, or `base`.
        finish_reason: `stop`, `length` or `abort`.
        fingerprint: names engine, base and adapter digest.
        usage: token counts.
        raw: the whole body, for everything else.
    """

    text: str
    model: str
    adapter: str
    finish_reason: str | None
    request_id: str = ""
    fingerprint: str = ""
    usage: Mapping[str, Any] = field(default_factory=dict)
    raw: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Piece:
    """One event of a stream. `usage` comes with the last one, where it was asked for."""

    text: str
    finish_reason: str | None = None
    fingerprint: str = ""
    usage: Mapping[str, Any] | None = None
    index: int = 0
