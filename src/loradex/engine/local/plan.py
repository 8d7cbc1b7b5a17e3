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


@dataclass(frozen=True, slots=True)
class StepPlan:
    """Chunks in the order of their rows: those of one mix lie together, the base's come first."""

    chunks: tuple[Chunk, ...]

    @property
    def tokens(self) -> int:
        """Rows of the step."""
        return sum(chunk.length for chunk in self.chunks)
