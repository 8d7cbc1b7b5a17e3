"""The weights of a module of the base as a plain matrix, however they are kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from loradex.engine.local.packed import PackedEmbedding, PackedLinear
from loradex.engine.local.panel_linear import PanelLinear
from loradex.engine.local.quantized import QuantizedLinear


@dataclass(frozen=True, slots=True)
class Dense:
    """A weight `[count, columns]`: of a linear `[out, in]`, of an embedding `[vocabulary, width]`.

    `rows(begin, end)` gives some of its rows, which may be a view. Files hold it the other way round if `transposed`.
    """

    rows: Callable[[int, int], torch.Tensor]
    count: int
    bias: torch.Tensor | None
    transposed: bool = False

    def equals(self, other: torch.Tensor, rest: Callable[[], None]) -> bool:
        """Whether `other`, as wide, holds the same values in the rows that both have."""
        count = min(self.count, other.shape[0])
        for begin in range(0, count, 256):
            end = min(begin + 256, count)
            if not torch.equal(self.rows(begin, end), other[begin:end]):
                return False
            rest()
        return True


def dense(module: nn.Module) -> Dense:
    """Return the weight of a linear or an embedding of the base."""
    if isinstance(module, PackedEmbedding):
        module = module.head
    if isinstance(module, PackedLinear | PanelLinear):
        return Dense(module.dense, module.out_features, module.bias)
    if isinstance(module, QuantizedLinear):
        return Dense(_dequantized(module), module.out_features, module.bias)
    weight: torch.Tensor = module.get_parameter("weight").detach()
    bias = getattr(module, "bias", None)
    if isinstance(module, Conv1D):
        return Dense(lambda begin, end: weight.t()[begin:end], weight.shape[1], bias, transposed=True)
    return Dense(lambda begin, end: weight[begin:end], weight.shape[0], bias)


def _dequantized(linear: QuantizedLinear) -> Callable[[int, int], torch.Tensor]:
    """Return what gives rows of the weights that a quantized linear computes with."""
    if linear.few is not None:  # its products are the engine's thread's alone
        return linear.few.laid.rows
    if linear.rounded is not None:
        whole = linear.rounded.values(torch.float32)
    else:
        # Products with multiples of the unit vectors, so large that the bias is lost beside them, and taken away.
        unit = torch.eye(linear.in_features, dtype=linear.weight.dtype, device=linear.device) * 1024
        whole = ((linear.product(unit) - linear.product(unit[:1] * 0)) / 1024).t()
    return lambda begin, end: whole[begin:end]
