"""What each version answered: requests, errors, tokens, times to a first token."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass

from loradex.core.adapter import AdapterRef

KEPT = 10_000
"""Versions that are remembered."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """One version since the start. A request on a mix counts for each of its members.

    Attributes:
        requests: that ended, however.
        errors: of them, those refused or broken off by us.
        prompt_tokens, output_tokens: read, and made.
        answers: that got as far as a first token.
        first_seconds: of all answers together, from arrival to the first token.
    """

    requests: int = 0
    errors: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0
    answers: int = 0
    first_seconds: float = 0.0

    @property
    def ttft(self) -> float | None:
        """Mean seconds from arrival to a first token; None where there was none."""
        return self.first_seconds / self.answers if self.answers else None

    def __add__(self, other: Traffic) -> Traffic:
        return Traffic(
            self.requests + other.requests,
            self.errors + other.errors,
            self.prompt_tokens + other.prompt_tokens,
            self.output_tokens + other.output_tokens,
            self.answers + other.answers,
            self.first_seconds + other.first_seconds,
        )


NO_TRAFFIC = Traffic()


class TrafficLog:
    """The traffic of every version under every name."""

    def __init__(self, kept: int = KEPT) -> None:
        self._kept = kept
        self._of: OrderedDict[AdapterRef, Traffic] = OrderedDict()

    def of(self, ref: AdapterRef) -> Traffic:
        """Return the traffic of a version."""
        return self._of.get(ref, NO_TRAFFIC)

    def note(self, refs: Iterable[AdapterRef], more: Traffic) -> None:
        """Add to the traffic of versions; the longest unused one is forgotten when there are too many."""
        for ref in set(refs):
            self._of[ref] = self.of(ref) + more
            self._of.move_to_end(ref)
        while len(self._of) > self._kept:
            self._of.popitem(last=False)
