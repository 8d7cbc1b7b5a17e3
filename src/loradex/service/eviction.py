"""Which adapters make room: those whose loss costs least, by how often they are asked for and what a load takes.

The value of an adapter is what its eviction is expected to cost: how often it was asked for lately, times a load. Where
slots are short the least valuable go; where bytes are short, those of the least value for each byte (the rule of
GreedyDual-Size-Frequency, Cherkasova 1998, with a frequency that fades in place of its ageing). On traces of mixed
ranks this misses less than to let the least recently used go, and less than the weighted sum of frequency, recency and
size that Chameleon (arXiv 2411.17741) evicts by: `benchmarks/LOG.md`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from loradex.service.budget import Lack

LOAD_BYTES = 4 << 20
"""What a load costs beside the reading of its bytes, in bytes that could be read meanwhile."""


@dataclass(frozen=True, slots=True)
class Held:
    """An adapter that may go.

    Attributes:
        digest: of its weights.
        bytes: what it takes in the engine.
        frequency: how many leases it had lately; see `Ledger`.
        used_at: when it was last used; decides between equals.
    """

    digest: str
    bytes: int
    frequency: float
    used_at: float

    @property
    def value(self) -> float:
        """What its eviction costs, in bytes to read."""
        return self.frequency * (LOAD_BYTES + self.bytes)


def choose(held: Sequence[Held], lack: Lack) -> list[Held] | None:
    """Return who goes so that nothing is lacking any more, the least loss first; None where all of them are too few.

    Nobody is in it without whom it would be enough.
    """
    worth = _density if lack.bytes else _value
    chosen: list[Held] = []
    left = lack
    for each in sorted(held, key=lambda each: (worth(each), each.used_at)):
        if not left:
            break
        chosen.append(each)
        left = left.less(each.bytes)
    return None if left else _needed(chosen, lack)


def _needed(chosen: list[Held], lack: Lack) -> list[Held]:
    """Leave out whom the later, larger ones made needless, the most valuable first."""
    spare = sum(each.bytes for each in chosen) - lack.bytes
    for each in sorted(chosen, key=_value, reverse=True):
        if each.bytes <= spare and len(chosen) > max(1, lack.slots):
            chosen.remove(each)
            spare -= each.bytes
    return chosen


def _value(held: Held) -> float:
    return held.value


def _density(held: Held) -> float:
    return held.value / max(1, held.bytes)
