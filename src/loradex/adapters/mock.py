"""Adapters of random weights that fit a base model: for trying out what does not depend on what they say."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from loradex.adapters.formats.lora import Lora, Pair
from loradex.adapters.formats.tensor import narrowed
from loradex.adapters.keys import kind
from loradex.core.model import ModelInfo
from loradex.errors import InvalidRequest, near

SCALE = 0.01
"""Standard deviation of the weights: enough to change answers, and too little to drown the base."""


def random_lora(
    base: ModelInfo, rank: int, *, alpha: float, modules: Sequence[str] = (), scale: float = SCALE, seed: int = 0
) -> Lora:
    """Return an adapter with random A and B, neither of them zero, in float16.

    Args:
        base: what it is to fit.
        rank: of every pair.
        alpha: each product is scaled by `alpha / rank`.
        modules: last names of the linears that it adapts, such as `q_proj`; none for all.
        scale: standard deviation of the weights.
        seed: equal seeds make equal adapters.

    Raises:
        InvalidRequest: the base has no linears of that name, or a number is none.
    """
    if rank < 1 or not scale > 0 or not alpha > 0:
        raise InvalidRequest(
            f"rank is {rank}, alpha {alpha:g} and scale {scale:g}", hint="Give numbers above 0", param="rank"
        )
    known = sorted({kind(name) for name in base.linears})
    if unknown := [name for name in modules if name not in known]:
        close = near(unknown[0], known) or known
        raise InvalidRequest(
            f"The base has no linear called {unknown[0]!r}", hint=f"It has: {', '.join(close)}", param="modules"
        )
    random = np.random.default_rng(seed)
    pairs = {}
    for name, shape in sorted(base.linears.items()):
        if not modules or kind(name) in modules:
            a = random.standard_normal((rank, shape.in_features)) * scale
            b = random.standard_normal((shape.out_features, rank)) * scale
            pairs[name] = Pair(narrowed(a, "F16"), narrowed(b, "F16"), alpha)
    return Lora(pairs, base.path)
