"""Two sides measured in turn, and the ratio between them."""

from __future__ import annotations

import statistics
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

LEAST = 5
"""Fewer pairs than this say too little about their spread."""

T = TypeVar("T")
Run = Callable[[], Awaitable[T]]


@dataclass(frozen=True, slots=True)
class Pairs:
    """One measured ratio: `a` over `b`. Where there is no other side `b` is empty, and so is what is told of a ratio.

    Attributes:
        what: what was measured, such as `end to end`.
        a_name, b_name: the two sides.
        unit: of the samples.
        a, b: the samples, in the order in which they were taken; the i-th of both belong together.
        better: whether a `higher` or a `lower` ratio is the better one.
        floor: the best value of `a` that the bytes and operations allow on this machine, in the same unit.
    """

    what: str
    a_name: str
    b_name: str
    unit: str
    a: tuple[float, ...]
    b: tuple[float, ...]
    better: str = "higher"
    floor: float | None = None

    @property
    def ratios(self) -> tuple[float, ...]:
        """The ratio of each pair; where a side is zero there is none."""
        return tuple(a / b for a, b in zip(self.a, self.b, strict=True) if a > 0 and b > 0) if self.b else ()

    @property
    def ratio(self) -> float | None:
        """The median of the ratios."""
        return statistics.median(self.ratios) if self.ratios else None

    @property
    def spread(self) -> tuple[float, float] | None:
        """The least and the greatest ratio."""
        return (min(self.ratios), max(self.ratios)) if self.ratios else None

    @property
    def difference(self) -> float | None:
        """The median of `a - b`, in the unit of the samples."""
        if not self.a or not self.b:
            return None
        return statistics.median(a - b for a, b in zip(self.a, self.b, strict=True))

    @property
    def drift(self) -> float:
        """How far side B strayed: from its least to its greatest sample, in shares of its median."""
        middle = statistics.median(self.b) if self.b else 0.0
        return (max(self.b) - min(self.b)) / middle if middle else 0.0

    @property
    def of_floor(self) -> float | None:
        """How near A came to the floor, at most 1 where the floor is one."""
        middle = statistics.median(self.a) if self.a else 0.0
        if not self.floor or not middle:
            return None
        return middle / self.floor if self.better == "higher" else self.floor / middle

    def describe(self) -> dict[str, Any]:
        """Return it as plain values: the raw samples, and what follows from them for readers without this code."""
        return {
            **{name: getattr(self, name) for name in ("what", "a_name", "b_name", "unit", "better", "floor")},
            **{name: list(getattr(self, name)) for name in ("a", "b", "ratios")},
            **{name: getattr(self, name) for name in ("ratio", "spread", "difference", "drift", "of_floor")},
        }

    @classmethod
    def read(cls, data: dict[str, Any]) -> Pairs:
        """Read what `describe` returned; what follows from the samples is worked out again."""
        given = {name: data[name] for name in ("what", "a_name", "b_name", "unit", "better", "floor")}
        return cls(a=tuple(data["a"]), b=tuple(data["b"]), **given)


async def in_turn(
    a: Run[T], b: Run[T], count: int, tell: Callable[[str, float], None] | None = None
) -> tuple[list[T], list[T]]:
    """Run both sides `count` times after one unmeasured run of each; return what they gave.

    The side that goes first changes from pair to pair, so that a slow drift of the machine cancels out.
    """
    await b()
    await a()
    found: tuple[list[T], list[T]] = ([], [])
    for i in range(count):
        first, second = ((0, a), (1, b)) if i % 2 == 0 else ((1, b), (0, a))
        for side, run in (first, second):
            found[side].append(await run())
        if tell is not None:
            tell("pairs", (i + 1) / count)
    return found


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value below which `share` percent of the values lie, interpolated; 0 where there is none."""
    if not values:
        return 0.0
    ordered = sorted(values)
    place = (len(ordered) - 1) * share / 100
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """Return p50, p95 and p99."""
    return {f"p{share}": percentile(values, share) for share in (50, 95, 99)}
