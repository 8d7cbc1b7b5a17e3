"""What one request runs on: the base with any number of adapters, each with a weight."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")
U = TypeVar("U")


@dataclass(frozen=True, slots=True)
class Mix(Generic[T]):
    """The base's output plus, for each member, `weight` times what that adapter adds to it: PEFT's `cat` combination.

    `members` are (adapter, weight) pairs, each adapter once. None at all is the base alone; one of weight 1 is an
    adapter as it is. An adapter is whatever means one here: a reference, a pinned version, below the service a digest.
    """

    members: tuple[tuple[T, float], ...] = ()

    def __contains__(self, adapter: object) -> bool:
        return any(member == adapter for member, _ in self.members)

    @property
    def adapters(self) -> tuple[T, ...]:
        """The members without their weights."""
        return tuple(adapter for adapter, _ in self.members)

    @classmethod
    def of(cls, adapter: T | None) -> Mix[T]:
        """Return one adapter as it is; the base for None."""
        return cls() if adapter is None else cls(((adapter, 1.0),))

    def map(self, to: Callable[[T], U]) -> Mix[U]:
        """Return the mix with other members. Those that become equal are one from then on: their weights add up."""
        weights: dict[U, float] = {}
        for adapter, weight in self.members:
            changed = to(adapter)
            weights[changed] = weights.get(changed, 0.0) + weight
        return Mix(tuple(weights.items()))
