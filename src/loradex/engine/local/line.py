"""Who waits for a place in the batch at one priority, and in what order the adapters take turns."""

from __future__ import annotations

from bisect import insort
from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from loradex.core.mix import Mix
from loradex.engine.local.sequence import Sequence

OVERTAKES = 8
"""How many sequences of other mixes may pass one that does not fit, before the line closes until it does."""


@dataclass(slots=True)
class _Queue:
    """The sequences that wait for one mix, first come first, and how often the first of them was passed."""

    sequences: deque[Sequence] = field(default_factory=deque)
    passed: int = 0


class Line:
    """The waiting sequences: first come first served within a mix, turn by turn among mixes, most of one adapter.

    A mix that has had its turn goes behind all others that wait, so however many requests a popular one sends, each
    other one is next after at most one of every mix before it. Sequences that were preempted stand before
    all others and nobody passes them: memory is short then, and whoever came in before them would be next to give way.
    """

    def __init__(self, overtakes: int = OVERTAKES) -> None:
        self.overtakes = overtakes
        self._returned: deque[Sequence] = deque()
        self._queues: OrderedDict[Mix[str], _Queue] = OrderedDict()

    def __len__(self) -> int:
        return len(self._returned) + sum(len(queue.sequences) for queue in self._queues.values())

    def __iter__(self) -> Iterator[Sequence]:
        yield from self._returned
        for queue in self._queues.values():
            yield from queue.sequences

    def append(self, sequence: Sequence) -> None:
        """Add a new sequence; a mix that had nobody here gets the last turn."""
        self._queues.setdefault(sequence.mix, _Queue()).sequences.append(sequence)

    def put_back(self, sequence: Sequence) -> None:
        """Add a preempted sequence, before all others."""
        self._returned.appendleft(sequence)

    def candidates(self) -> Iterator[Sequence]:
        """Yield those who may be admitted, in order of preference: a later one only if no earlier one fits."""
        if self._returned:
            yield self._returned[0]
            return
        for queue in self._queues.values():
            yield queue.sequences[0]
            if queue.passed >= self.overtakes:
                return

    @property
    def closed(self) -> bool:
        """Whether nobody else may be admitted before one who waits here."""
        return bool(self._returned) or any(queue.passed >= self.overtakes for queue in self._queues.values())

    def pass_all(self) -> None:
        """Take note that one from elsewhere was admitted, since none of the candidates fitted."""
        for queue in self._queues.values():
            queue.passed += 1

    def take(self, sequence: Sequence) -> None:
        """Let a candidate go. Those before it were passed; its mix's next turn is the last."""
        if self._returned:
            self._returned.remove(sequence)
            return
        for mix, queue in self._queues.items():
            if mix == sequence.mix:
                break
            queue.passed += 1
        self._drop(sequence)
        if sequence.mix in self._queues:
            self._queues.move_to_end(sequence.mix)

    def remove(self, sequence: Sequence) -> None:
        """Forget a sequence that is wanted no more."""
        if sequence in self._returned:
            self._returned.remove(sequence)
        else:
            self._drop(sequence)

    def move(self, sequence: Sequence, new: Mix[str]) -> None:
        """Follow a switch: a sequence waits for `new` instead, among those by order of arrival."""
        if sequence in self._returned:
            sequence.mix = new
            return
        self._drop(sequence)
        sequence.mix = new
        queue = self._queues.setdefault(new, _Queue())
        insort(queue.sequences, sequence, key=lambda other: other.arrival)

    def _drop(self, sequence: Sequence) -> None:
        queue = self._queues[sequence.mix]
        if queue.sequences[0] is sequence:
            queue.passed = 0
        queue.sequences.remove(sequence)
        if not queue.sequences:
            del self._queues[sequence.mix]
