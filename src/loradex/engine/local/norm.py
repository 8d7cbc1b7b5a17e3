"""Root-mean-square norms that a compiled kernel takes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from loradex.engine.local import norm_numba as field
from loradex.engine.local.team import Team

KERNELS = {torch.bfloat16: field.bf16, torch.float32: field.fp32}

TEAMS = {dtype: Team(kernel.address) for dtype, kernel in KERNELS.items()}
"""What runs them, by the dtype of inputs, outputs and weights."""

SHARED = Team(field.bf16_shared.address)
"""Runs it on all threads."""

ROWS = 64
"""Rows up to which one thread is enough."""


Make = Callable[[nn.Module, torch.Tensor, float], Callable[[torch.Tensor], torch.Tensor]]
"""A norm, its weight and its epsilon to what computes it."""


class QuickNorm:
    """Stands for the `forward` of a norm of transformers, of `[width]` weights.

    Many rows of float32 are left to that: they are no slower there.
    """

    def __init__(self, norm: nn.Module, weight: torch.Tensor, epsilon: float) -> None:
        self._forward = norm.forward
        self._weight = weight
        self._team = TEAMS[weight.dtype]
        self._fields = own = np.zeros(field.FIELDS, np.int64)
        self._address: int = own.ctypes.data
        own[field.WEIGHT], own[field.WIDTH] = weight.data_ptr(), weight.numel()
        own.view(np.float64)[field.EPSILON] = epsilon

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Return `x` (`[..., width]`) over its root mean square, times the weight."""
        rows = x.numel() // x.shape[-1]
        if x.dtype is not self._weight.dtype or (rows > ROWS and x.dtype is torch.float32):
            theirs: torch.Tensor = self._forward(x)
            return theirs
        x = x.contiguous()
        y = torch.empty_like(x)
        own = self._fields
        own[field.INPUT], own[field.OUTPUT], own[field.ROWS] = x.data_ptr(), y.data_ptr(), rows
        if rows <= ROWS:
            self._team.quick(self._address)
        else:
            own[field.TAKEN] = 0
            SHARED.together(self._address)
        return y


def quickened(norm: nn.Module, make: Make = QuickNorm) -> Callable[[torch.Tensor], torch.Tensor] | None:
    """Return what computes a norm by a kernel; None if that computes something else.

    That is tried: names promise nothing about where a norm rounds.
    """
    weight, epsilon = getattr(norm, "weight", None), getattr(norm, "variance_epsilon", None)
    if not isinstance(weight, torch.Tensor) or weight.ndim != 1 or not isinstance(epsilon, float):
        return None
    if weight.dtype not in TEAMS or weight.numel() % 2:
        return None
    quick = make(norm, weight, epsilon)
    x = torch.randn(8, weight.numel(), generator=torch.Generator().manual_seed(0)).to(weight)
    with torch.inference_mode():
        theirs, ours = norm(x).float(), quick(x).float()
    # What may differ is the order of a float32 sum: at the most one step of the storage type.
    return quick if torch.allclose(ours, theirs, rtol=2 * torch.finfo(weight.dtype).eps, atol=1e-6) else None
