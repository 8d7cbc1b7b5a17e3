"""Root-mean-square norms whose few rows a compiled kernel takes."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from loradex.engine.local import norm_numba as field
from loradex.engine.local.team import Team

KERNELS = {torch.bfloat16: field.bf16, torch.float32: field.fp32}
"""By the dtype of inputs, outputs and weights."""

ROWS = 64
"""The most rows: many are better spread over torch's threads."""


class QuickNorm(nn.Module):
    """Stands before a norm of transformers: takes few rows, and leaves the others to it."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm
        self.weight = norm.weight
        self.variance_epsilon = norm.variance_epsilon
        self._width = norm.weight.numel()
        self._team = Team(KERNELS[norm.weight.dtype].address)
        self._fields = own = np.zeros(field.FIELDS, np.int64)
        self._address = own.ctypes.data
        own[field.WEIGHT], own[field.WIDTH] = norm.weight.data_ptr(), self._width
        own.view(np.float64)[field.EPSILON] = norm.variance_epsilon

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return `x` (`[..., width]`) over its root mean square, times the weight."""
        rows = x.numel() // self._width
        if rows > ROWS or x.dtype != self.weight.dtype:
            return self.norm(x)
        x = x.contiguous()
        y = torch.empty_like(x)
        own = self._fields
        own[field.INPUT], own[field.OUTPUT], own[field.ROWS] = x.data_ptr(), y.data_ptr(), rows
        self._team.quick(self._address)
        return y


def can_take(norm: nn.Module) -> bool:
    """Whether the kernel computes what a module computes, which is tried: names promise nothing about where it rounds."""
    weight = getattr(norm, "weight", None)
    if not (isinstance(weight, torch.Tensor) and weight.ndim == 1 and isinstance(getattr(norm, "variance_epsilon", None), float)):
        return False
    if weight.dtype not in KERNELS or weight.device.type != "cpu" or weight.numel() % 2:
        return False
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(8, weight.numel(), generator=generator).to(weight.dtype)
    with torch.inference_mode():
        theirs, ours = norm(x).float(), QuickNorm(norm)(x).float()
    # What may differ is the order of a float32 sum: at the most one step of the storage type.
    return torch.allclose(ours, theirs, rtol=2 * torch.finfo(weight.dtype).eps, atol=1e-6)

