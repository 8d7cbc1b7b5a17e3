"""Who waits for a place in the batch, by priority: lower numbers first, and yet nobody for ever."""

from __future__ import annotations

from collections.abc import Iterator

from loradex.core.mix import Mix
from loradex.engine.local.line import Line
from loradex.engine.local.sequence import Sequence

PATIENCE = 32
"""How many sequences of other priorities may be admitted before one of a level that waits comes next."""


class Levels:
    """A `Line` for each priority. A level that others have passed `patience` times comes first, once.

    So a sequence at the head of its level waits for at most `patience` admissions, and one of each other level that has
    waited for longer; within the level the line says who is next. A line that nobody may pass, since memory is short
    for one in it, holds the levels behind it back too.
    """

    def __init__(self, patience: int = PATIENCE) -> None:
        self._patience = patience
        self._lines: dict[int, Line] = {}
        self._passed: dict[int, int] = {}
        """How many of other levels were admitted since a level had its last turn."""
        self._arrivals = 0

    def __len__(self) -> int:
        return sum(len(line) for line in self._lines.values())

    def __iter__(self) -> Iterator[Sequence]:
        for level in self._order():
            yield from self._lines[level]

    def append(self, sequence: Sequence) -> None:
        """Add a new sequence to the end of its level."""
        sequence.arrival = self._arrivals
        self._arrivals += 1
        self._line(sequence.priority).append(sequence)

    def put_back(self, sequence: Sequence) -> None:
        """Add a preempted sequence, before all others of its level."""
        self._line(sequence.priority).put_back(sequence)

    def candidates(self) -> Iterator[Sequence]:
        """Yield those who may be admitted, in order of preference: a later one only if no earlier one fits."""
        for level in self._order():
            line = self._lines[level]
            yield from line.candidates()
            if line.closed:
                return

    def take(self, sequence: Sequence) -> None:
        """Let a candidate go. Those before it were passed, and every other level has waited for one more."""
        own = sequence.priority
        order = self._order()
        for level in order[: order.index(own)]:
            self._lines[level].pass_all()
        for level in order:
            self._passed[level] = 0 if level == own else self._passed[level] + 1
        self._lines[own].take(sequence)
        self._tidy(own)

    def remove(self, sequence: Sequence) -> None:
        """Forget a sequence that is wanted no more."""
        self._lines[sequence.priority].remove(sequence)
        self._tidy(sequence.priority)

    def move(self, sequence: Sequence, new: Mix[str]) -> None:
        """Follow a switch: a sequence waits for `new` instead."""
        self._lines[sequence.priority].move(sequence, new)

    def _order(self) -> list[int]:
        """Return the levels: those that were passed too often, the most often first, then by number."""
        return sorted(self._lines, key=lambda level: (-max(0, self._passed[level] - self._patience + 1), level))

    def _line(self, level: int) -> Line:
        self._passed.setdefault(level, 0)
        return self._lines.setdefault(level, Line())

    def _tidy(self, level: int) -> None:
        if not self._lines[level]:
            del self._lines[level], self._passed[level]
