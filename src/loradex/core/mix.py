"""What one request runs on: the base with any number of adapters, each with a weight; and how people write it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from loradex.core.adapter import BASE, Reference
from loradex.errors import InvalidRequest

MAX_MEMBERS = 16
MAX_WEIGHT = 100.0

_WEIGHT = re.compile(r"-?(\d+(\.\d*)?|\.\d+)(e-?\d{1,3})?", re.ASCII)
_HINT = "Write a mix as `medical*0.7+legal*0.3`"

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

    def __str__(self) -> str:
        return "+".join(_written(adapter, weight) for adapter, weight in self.members) or BASE

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


def parse_mix(text: str) -> Mix[Reference]:
    """Parse references joined by `+`, each with `*` and its weight, which is 1 where it is left out.

    Raises:
        InvalidRequest: `text` does not follow the grammar, or is no mix that `mix_of` takes.
    """
    return mix_of([_member(part) for part in text.split("+")])


def mix_of(members: Sequence[tuple[Reference, float]]) -> Mix[Reference]:
    """Return the mix of these members.

    Raises:
        InvalidRequest: too many, one of them twice, a weight that is not within `MAX_WEIGHT`, or the base among them.
    """
    if len(members) > MAX_MEMBERS:
        raise InvalidRequest(f"The mix has {len(members)} adapters; at most {MAX_MEMBERS} are allowed", param="model")
    seen: set[Reference] = set()
    for reference, weight in members:
        if reference in seen:
            hint = "Name it once, with the sum of the weights"
            raise InvalidRequest(f"The mix has `{reference}` twice", hint=hint, param="model")
        if reference.name == BASE:
            hint = "Leave it out: the base is always there, in full"
            raise InvalidRequest("`base` is no adapter that could be mixed", hint=hint, param="model")
        if not (math.isfinite(weight) and abs(weight) <= MAX_WEIGHT):
            limits = f"from {-MAX_WEIGHT:g} to {MAX_WEIGHT:g}"
            raise InvalidRequest(f"The weight of `{reference}` is {weight:g}; it must be {limits}", param="model")
        seen.add(reference)
    return Mix(tuple(members))


def _member(text: str) -> tuple[Reference, float]:
    name, star, weight = text.partition("*")
    if star and not _WEIGHT.fullmatch(weight):
        raise InvalidRequest(f"{weight[:64]!r} is no weight for {name[:64]!r}", hint=_HINT, param="model")
    return Reference.parse(name), float(weight) if star else 1.0


def _written(adapter: object, weight: float) -> str:
    return str(adapter) if weight == 1 else f"{adapter}*{repr(float(weight)).removesuffix('.0')}"
