"""Which version of an adapter made an answer: by the server's fingerprint, or by what each version says alone. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

Means = Literal["fingerprint", "text"]


@dataclass(slots=True)
class Stream:
    """One streamed answer; times are seconds of one clock.

    Attributes:
        prompt: what was asked.
        sent: when.
        times: when each piece of text came.
        ended: when it was over, one way or the other; None while it runs.
        text: all that came.
        fingerprints: every `system_fingerprint` that its events carried.
        finish: the reason of its end; empty where the server named none.
        error: why it failed, empty where it did not.
    """

    prompt: str
    sent: float
    times: list[float] = field(default_factory=list)
    ended: float | None = None
    text: str = ""
    fingerprints: set[str] = field(default_factory=set)
    finish: str = ""
    error: str = ""

    @property
    def running(self) -> bool:
        """Whether it is in mid-answer."""
        return bool(self.times) and self.ended is None

    @property
    def waits(self) -> list[float]:
        """Seconds from one sign of life to the next: from the request to the first piece, and between pieces."""
        return [after - before for before, after in zip((self.sent, *self.times), self.times, strict=False)]

    @property
    def longest(self) -> float:
        """The longest wait, up to the end of the stream."""
        last = self.times[-1] if self.times else self.sent
        return max((*self.waits, (self.ended if self.ended is not None else last) - last))


@dataclass(frozen=True, slots=True)
class Swap:
    """One change of what the name means: to which version, when it began and was acknowledged."""

    version: int
    began: float
    ended: float
    error: str = ""


@dataclass(frozen=True, slots=True)
class Witness:
    """Knows two versions by answers that each gave alone.

    Attributes:
        means: by what it tells them apart.
        fingerprints: version by fingerprint; empty where the server has none of use.
        texts: for each prompt, what each version says to it. Only prompts to which all say something else are there.
    """

    means: Means
    fingerprints: Mapping[str, int]
    texts: Mapping[str, Sequence[str]]

    @classmethod
    def of(cls, alone: Sequence[Sequence[Stream]], *, by_text: bool = False) -> Witness:
        """Learn from the answers of version 0, version 1 and so on, each to the same prompts in the same order.

        Without `by_text`, fingerprints are used where each version has one of its own.
        """
        marks = [frozenset().union(*(stream.fingerprints for stream in streams)) for streams in alone]
        known = {mark: version for version, found in enumerate(marks) for mark in found if len(found) == 1}
        texts = {
            streams[0].prompt: [stream.text for stream in streams]
            for streams in zip(*alone, strict=True)
            if len({stream.text for stream in streams}) == len(alone)
        }
        told = len(known) == len(alone) and not by_text
        return cls("fingerprint" if told else "text", known if told else {}, texts)

    def version(self, stream: Stream) -> int | None:
        """Return the one version that made a whole answer; None where it was none of them, or several."""
        if self.means == "fingerprint":
            return self.fingerprints.get(next(iter(stream.fingerprints))) if len(stream.fingerprints) == 1 else None
        texts = self.texts.get(stream.prompt, ())
        return next((version for version, text in enumerate(texts) if text == stream.text), None)

    def left_at(self, stream: Stream) -> int:
        """Return after how many characters an answer left what the versions say to its prompt."""
        return max((_shared(text, stream.text) for text in self.texts.get(stream.prompt, ())), default=0)


def _shared(one: str, other: str) -> int:
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def in_force(stream: Stream, first: int, swaps: Sequence[Swap]) -> set[int]:
    """Return the versions that the name may have meant while a request for it was on its way in.

    From the moment a swap begins, its version may be the one; the one before, until the swap is acknowledged.
    """
    taken = stream.times[0] if stream.times else stream.ended if stream.ended is not None else stream.sent
    moves = [swap for swap in swaps if not swap.error]
    begins = [float("-inf"), *(swap.began for swap in moves)]
    ends = [*(swap.ended for swap in moves), float("inf")]
    versions = [first, *(swap.version for swap in moves)]
    return {
        version
        for version, begin, end in zip(versions, begins, ends, strict=True)
        if begin <= taken and stream.sent <= end
    }
