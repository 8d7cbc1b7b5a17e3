"""Task arithmetic on tensors of one shape: prune each, elect signs, add up.

TIES: "TIES-Merging: Resolving Interference When Merging Models", Yadav et al. 2023. DARE: "Language Models are Super
Mario", Yu et al. 2023. Where PEFT's `peft.utils.merge_utils` differs from a paper, this follows PEFT, which is what
people have merged with: TIES weighs the values after the election, and takes their mean over those that agree.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loradex.adapters.merging.recipe import Recipe, Sign

Array = NDArray[Any]


def combined(tensors: Sequence[Array], weights: Sequence[float], recipe: Recipe, random: np.random.Generator) -> Array:
    """Return one tensor for several of its shape, each with its weight."""
    kept = np.stack([_pruned(tensor, recipe, random) for tensor in tensors])
    weighted = kept * np.asarray(weights, kept.dtype).reshape(-1, *(1,) * (kept.ndim - 1))
    if "ties" not in recipe.method:
        return np.asarray(weighted.sum(axis=0))
    agrees = _agreeing(kept, recipe.sign)
    return np.asarray((weighted * agrees).sum(axis=0) / np.maximum(agrees.sum(axis=0), 1))


def _pruned(tensor: Array, recipe: Recipe, random: np.random.Generator) -> Array:
    density = recipe.density
    if density is None or density == 1:
        return tensor
    if recipe.method.startswith("dare"):
        return np.where(random.random(tensor.shape) < density, tensor / density, 0).astype(tensor.dtype)
    kept = np.zeros_like(tensor).reshape(-1)
    if count := int(density * tensor.size):
        flat = tensor.reshape(-1)
        largest = np.argpartition(np.abs(flat), tensor.size - count)[tensor.size - count :]
        kept[largest] = flat[largest]
    return kept.reshape(tensor.shape)


def _agreeing(stacked: Array, sign: Sign) -> Array:
    """Return which values have the sign that most of them have; where nobody wins it is the positive one."""
    signs = np.sign(stacked)
    votes = (stacked if sign == "total" else signs).sum(axis=0)
    return np.equal(signs, np.where(votes >= 0, 1, -1))
