"""Linears whose bfloat16 weights lie in panels, for processors whose matrix products know no bfloat16."""

from __future__ import annotations

from typing import Self

import torch
from torch import nn

from loradex.engine.local.laid import Laid
from loradex.engine.local.panels import Panels, Scratch

_SCRATCH = Scratch()  # bfloat16 weights are never written out


class PanelLinear(nn.Module):
    """A linear of bfloat16 weights on a CPU: half the bytes of float32, whose products it computes as fast.

    `weight` has the shape and dtype of the original and no data, for model code that only asks for those.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self._take(Laid.of(linear.weight.detach()), linear.bias)

    @classmethod
    def ready(cls, laid: Laid, bias: torch.Tensor | None) -> Self:
        """Return one whose weights were laid out before."""
        own = cls.__new__(cls)
        nn.Module.__init__(own)
        own._take(laid, bias)
        return own

    def _take(self, laid: Laid, bias: torch.Tensor | None) -> None:
        self.in_features, self.out_features = laid.in_features, laid.out_features
        self.bias = bias
        self.weight = torch.empty(laid.out_features, laid.in_features, dtype=laid.codes.dtype, device="meta")
        self.few = Panels(laid, bias, laid.codes.dtype, _SCRATCH)

    @property
    def blocks(self) -> torch.Tensor:
        """The weights as they lie, `[blocks, in_features, outputs of a block]`."""
        return self.few.laid.codes.flatten(0, 1)

    def takes(self, x: torch.Tensor) -> bool:
        """Whether base and adapters of these rows can be computed in one call."""
        return self.few.takes(x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return `x W^T + b`; `x` is `[..., in_features]`."""
        return self.few.product(x)

    def dense(self, begin: int, end: int) -> torch.Tensor:
        """Return rows `begin` to `end` of the original weight, `[rows, in_features]`."""
        return self.few.laid.rows(begin, end)
