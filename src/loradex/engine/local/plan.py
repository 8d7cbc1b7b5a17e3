"""What one step computes."""

from __future__ import annotations

from dataclasses import dataclass

from loradex.engine.local.sequence import Sequence


@dataclass(frozen=True, slots=True)
class Chunk:
    """`length` tokens of a sequence from position `start`; `samples` when a new token follows the last of them."""

    sequence: Sequence
    start: int
    length: int
    samples: bool

    @property
    def end(self) -> int:
        """The position after its last token."""
        return self.start + self.length

    @property
    def wanted(self) -> range:
        """The positions among its own that the sequence wants read out."""
        wanted = self.sequence.wanted
        return range(max(self.start, wanted.start), max(self.start, wanted.start, min(self.end, wanted.stop)))

    @property
    def kept(self) -> range:
        """The positions whose logits are computed, up to its end: from the first that is scored, or the last alone."""
        if self.wanted and not self.sequence.embeds:
            return range(self.wanted.start, self.end)
        return range(self.end - self.samples, self.end)


@dataclass(frozen=True, slots=True)
class StepPlan:
    """Chunks in the order of their rows: those of one mix lie together, the base's come first."""

    chunks: tuple[Chunk, ...]

    @property
    def tokens(self) -> int:
        """Rows of the step."""
        return sum(chunk.length for chunk in self.chunks)
