"""One low-rank pair made of several of one linear."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loradex.adapters.formats.lora import Pair
from loradex.adapters.formats.tensor import Tensor, narrowed
from loradex.adapters.merging.combine import combined
from loradex.adapters.merging.recipe import Recipe

Array = NDArray[Any]
Weighted = Sequence[tuple[Pair, float]]
"""Pairs of one linear, each with its weight."""


def merged_pair(pairs: Weighted, recipe: Recipe, rank: int, random: np.random.Generator) -> Pair:
    """Return a pair of scaling 1; `rank` is that of a product that is cut off. Who calls has checked the shapes."""
    if recipe.by_product:
        a, b = _cut(pairs, recipe, random, rank)
    elif recipe.by_factor:
        a, b = _factors(pairs, recipe, random)
    else:
        a, b = _beside(pairs)
    dtypes = {tensor.dtype for pair, _ in pairs for tensor in (pair.a, pair.b)}
    dtype = dtypes.pop() if len(dtypes) == 1 else "F32"
    return Pair(_exactly(a, dtype), _exactly(b, dtype), float(len(a)))


def _beside(pairs: Weighted) -> tuple[Array, Array]:
    """Return the A's above one another and the B's beside one another: their product is the weighted sum."""
    a = np.concatenate([pair.a.widened() * (weight * pair.scaling) for pair, weight in pairs])
    return a, np.concatenate([pair.b.widened() for pair, _ in pairs], axis=1)


def _factors(pairs: Weighted, recipe: Recipe, random: np.random.Generator) -> tuple[Array, Array]:
    # Half of each factor goes to A and half to B; the sign to one of them only.
    factors = [weight * pair.scaling for pair, weight in pairs]
    halves = [abs(factor) ** 0.5 for factor in factors]
    signed = [float(np.copysign(half, factor)) for half, factor in zip(halves, factors, strict=True)]
    a = combined([pair.a.widened() for pair, _ in pairs], signed, recipe, random)
    return a, combined([pair.b.widened() for pair, _ in pairs], halves, recipe, random)


def _cut(pairs: Weighted, recipe: Recipe, random: np.random.Generator, rank: int) -> tuple[Array, Array]:
    if not recipe.prunes:
        # The sum is of low rank already, so that the decomposition of a small core will do.
        a, b = _beside(pairs)
        outer, core_b = np.linalg.qr(b)
        inner, core_a = np.linalg.qr(a.T)
        u, s, vh = np.linalg.svd(core_b @ core_a.T, full_matrices=False)
        return vh[:rank] @ inner.T, outer @ (u[:, :rank] * s[:rank])
    # Matrices of the size of the base's own weights: as float32 they take half the time and memory.
    products = [(pair.scaling * (pair.b.widened() @ pair.a.widened())).astype(np.float32) for pair, _ in pairs]
    whole = combined(products, [weight for _, weight in pairs], recipe, random)
    u, s, vh = np.linalg.svd(whole, full_matrices=False)
    return vh[:rank].astype(np.float64), (u[:, :rank] * s[:rank]).astype(np.float64)


def _exactly(wide: Array, dtype: str) -> Tensor:
    """Return values in a dtype that holds each of them, else in F32."""
    same = narrowed(wide, dtype)
    return same if np.array_equal(same.widened(), wide) else narrowed(wide, "F32")
