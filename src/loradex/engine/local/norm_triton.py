"""Root-mean-square norms on graphics cards, in Triton: one launch instead of six."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import nn


@triton.jit
def _normed(x, weight, y, width, epsilon, N: tl.constexpr):
    """Norm one row as transformers does: in float32, rounded before it is multiplied with the weight."""
    columns = tl.arange(0, N)
    inside = columns < width
    row = tl.program_id(0).to(tl.int64) * width
    values = tl.load(x + row + columns, mask=inside, other=0.0).to(tl.float32)
    scale = tl.rsqrt(tl.sum(values * values, 0) / width + epsilon)
    kind = y.dtype.element_ty
    normed = (values * scale).to(kind).to(tl.float32)
    weights = tl.load(weight + columns, mask=inside, other=0.0).to(tl.float32)
    tl.store(y + row + columns, (normed * weights).to(kind), mask=inside)


class CardNorm:
    """Stands for the `forward` of a norm of transformers, of `[width]` weights."""

    def __init__(self, norm: nn.Module, weight: torch.Tensor, epsilon: float) -> None:
        self._forward = norm.forward
        self._weight = weight
        self._epsilon = epsilon
        self._block = triton.next_power_of_2(weight.numel())

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Return `x` (`[..., width]`) over its root mean square, times the weight."""
        if x.dtype is not self._weight.dtype:
            theirs: torch.Tensor = self._forward(x)
            return theirs
        x = x.contiguous()
        y = torch.empty_like(x)
        if rows := x.numel() // x.shape[-1]:
            _normed[(rows,)](x, self._weight, y, x.shape[-1], self._epsilon, N=self._block)
        return y
