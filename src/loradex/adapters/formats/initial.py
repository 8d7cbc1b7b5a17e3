"""Adapters whose training began on changed base weights, made plain: PiSSA, OLoRA, CorDA, LoRA-GA.

Their training starts from a pair `B0 A0` made from the base's weights, on the base without it: `W - s0 B0 A0`. Over the
base as it is, `s B A` therefore is `s B A - s0 B0 A0`, which is one pair of both ranks together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from loradex.adapters.base_model import StoredWeight, find_weights
from loradex.adapters.formats.lora import Lora, Pair
from loradex.adapters.formats.safetensors_file import read_safetensors
from loradex.adapters.formats.tensor import narrowed
from loradex.adapters.listing import listed
from loradex.errors import AdapterInvalid, Problem

Matrix = NDArray[np.float64]
Told = Callable[[float], None]


def without_initial(lora: Lora, initial: Mapping[str, Pair]) -> Lora:
    """Return the adapter over the base as it is; `initial` are the pairs with which its training began.

    Weights are F32 then: what is left of both pairs is the small difference of large ones.

    Raises:
        AdapterInvalid: `initial` has no pair, or one of other shapes, for some module.
    """
    wrong = [module for module, pair in lora.pairs.items() if not _alike(pair, initial.get(module))]
    if wrong:
        what = f"The initial adapter has no pair of the same inputs and outputs for {listed(wrong)}"
        fix = "Give the folder that `save_pretrained` wrote right after `get_peft_model`, before training"
        raise AdapterInvalid("The adapter cannot be made plain", [Problem("initial_adapter", what, fix)])
    return replace(lora, pairs={module: _less(pair, initial[module]) for module, pair in lora.pairs.items()})


def initial_pairs(lora: Lora, method: str, base: Path, told: Told = lambda share: None) -> dict[str, Pair]:
    """Return the pairs with which training began, worked out from the weights of the model in the folder `base`.

    `told` is told how much is done, from 0 to 1: the weights of a large model take minutes.

    Raises:
        ConfigInvalid: there is no model that can be read.
        AdapterInvalid: the base lacks a module, or nothing but the training knew the pairs.
    """
    make = _METHODS.get(method.lower())
    places = find_weights(base)
    missing = [module for module in lora.pairs if module not in places]
    if make is None:
        what = f"The pair with which `{method}` began cannot be told from the base's weights alone"
        fix = "Name the adapter as it was before training with `--initial`"
        raise AdapterInvalid("The adapter cannot be made plain", [Problem("initial_adapter", what, fix)])
    if missing:
        what = f"The base model at {base} has no weights for {listed(missing)}"
        fix = "Name the base on which it was trained"
        raise AdapterInvalid("The adapter cannot be made plain", [Problem("unknown_modules", what, fix)])
    found: dict[str, Pair] = {}
    for module, pair in lora.pairs.items():
        found[module] = make(pair, _weight(places[module]))
        told(len(found) / len(lora.pairs))
    return found


def _pissa(pair: Pair, weight: Matrix) -> Pair:
    """The best approximation of the weight of this rank: `s0 B0 A0 = U U^T W` for its first left singular vectors U."""
    values, vectors = np.linalg.eigh(weight @ weight.T)
    u = vectors[:, np.argsort(values)[: -pair.rank - 1 : -1]]
    return _pair(u.T @ weight, u, 1.0)


def _olora(pair: Pair, weight: Matrix) -> Pair:
    """`W = Q R`: the first columns of Q and rows of R, which only the first columns of the weight decide."""
    q, _ = np.linalg.qr(weight[:, : pair.rank])
    return _pair(q.T @ weight, q, pair.scaling)


_METHODS: Final[Mapping[str, Callable[[Pair, Matrix], Pair]]] = {"pissa": _pissa, "olora": _olora}


def _pair(a: Matrix, b: Matrix, scaling: float) -> Pair:
    return Pair(narrowed(a, "F32"), narrowed(b, "F32"), scaling * len(a))


def _less(pair: Pair, initial: Pair) -> Pair:
    a = [each.a.widened() for each in (pair, initial)]
    b = [pair.b.widened() * pair.scaling, initial.b.widened() * -initial.scaling]
    return _pair(np.concatenate(a, axis=0), np.concatenate(b, axis=1), 1.0)


def _alike(pair: Pair, other: Pair | None) -> bool:
    return other is not None and (pair.a.shape[1], pair.b.shape[0]) == (other.a.shape[1], other.b.shape[0])


def _weight(place: StoredWeight) -> Matrix:
    """Return a weight `[out, in]`."""
    tensor = read_safetensors(place.file)[place.tensor]
    return (tensor.transposed() if place.transposed else tensor).widened()
