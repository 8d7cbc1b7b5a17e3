"""Who asks for which adapter: Punica's four popularities, S-LoRA's power law in both readings, and vLLM's two ways.

Pure and seeded. Adapters are numbers from 0; the first is the most popular one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np

from loradex.errors import ConfigInvalid, near

PUNICA: Final = ("distinct", "uniform", "skewed", "identical")
DRAWN: Final = ("power", "zipf", "random", "round-robin")
NAMES: Final = (*PUNICA, *DRAWN, "base")
GROWTH: Final = 1.5
"""Punica calls its skewed popularity Zipf-1.5; its code makes groups that grow by this factor."""


def group_sizes(name: str, requests: int) -> list[int]:
    """Return how many of `requests` each adapter gets in a popularity of Punica, largest first.

    Raises:
        ConfigInvalid: there is no such popularity.
    """
    if name == "distinct":
        return [1] * requests
    if name == "identical":
        return [requests]
    if name == "uniform":
        models = math.ceil(math.sqrt(requests))
        return [requests // models + (i < requests % models) for i in range(models)]
    if name == "skewed":
        sizes: list[int] = []
        left = requests
        while left:
            sizes.append(min(left, math.floor(GROWTH ** len(sizes))))
            left -= sizes[-1]
        return sorted(sizes, reverse=True)
    close = ", ".join(near(name, PUNICA) or PUNICA)
    raise ConfigInvalid(f"There is no popularity {name!r}", hint=f"Popularities: {close}")


def models_needed(name: str, requests: int, adapters: int | None) -> int:
    """Return how many different adapters a popularity asks for; `adapters` is what the caller wants, if anything."""
    if name == "base":
        return 0
    if name in DRAWN:
        return adapters or requests
    return len(group_sizes(name, requests))


def power_function(alpha: float, adapters: int, requests: int, seed: int) -> list[int]:
    """Return S-LoRA's choice as its code makes it: `int(np.random.power(alpha) * adapters)`.

    Its density is `alpha * x^(alpha-1)`: alpha 1 is uniform, a smaller alpha is more skewed.
    """
    drawn = np.random.RandomState(seed).power(alpha, requests)
    return [min(int(x * adapters), adapters - 1) for x in drawn]


def zipf(exponent: float, adapters: int, requests: int, seed: int) -> list[int]:
    """Return S-LoRA's choice as its paper reads: adapter `i` with a chance in proportion to `(i + 1) ** -exponent`."""
    chance = np.arange(1, adapters + 1, dtype=np.float64) ** -exponent
    drawn = np.random.default_rng(seed).choice(adapters, requests, p=chance / chance.sum())
    return [int(i) for i in drawn]


def assign(name: str, requests: int, adapters: int, *, alpha: float = 1.0, seed: int = 0) -> Sequence[int | None]:
    """Return the adapter of each request, None for the base, in a seeded order.

    Raises:
        ConfigInvalid: there is no such popularity, or it asks for more adapters than there are. Two requests for
            different adapters never share weights here: that would make the memory look faster than it is.
    """
    if name == "base":
        return [None] * requests
    if name == "power":
        return power_function(alpha, adapters, requests, seed)
    if name == "zipf":
        return zipf(alpha, adapters, requests, seed)
    if name == "random":
        return zipf(0.0, adapters, requests, seed)
    if name == "round-robin":
        return [index % adapters for index in range(requests)]
    sizes = group_sizes(name, requests)
    if len(sizes) > adapters:
        raise ConfigInvalid(
            f"{requests} requests of popularity {name} need {len(sizes)} adapters; there are {adapters}",
            hint=f"Give `--adapters {len(sizes)}`, or a smaller `--batch`",
        )
    dealt = [adapter for adapter, size in enumerate(sizes) for _ in range(size)]
    return [dealt[int(i)] for i in np.random.default_rng(seed).permutation(requests)]
