"""Linears whose bfloat16 weights lie in panels, for processors whose matrix products know no bfloat16."""

from __future__ import annotations

from typing import Self

import torch
from torch import nn

from loradex.engine.local.laid import Laid
from loradex.engine.local.panels import Panels, Scratch


class PanelLinear(nn.Module):
    """A linear of bfloat16 weights on a CPU: half the bytes of float32, whose products it computes as fast.

    `weight` has the shape and dtype of the original and no data, for model code that only asks for those. `scratch` is
    shared with the other linears of the engine.
    """

    def __init__(self, laid: Laid, bias: torch.Tensor | None, scratch: Scratch) -> None:
        super().__init__()
        self.in_features, self.out_features = laid.in_features, laid.out_features
        self.bias = bias
        self.weight = torch.empty(laid.out_features, laid.in_features, dtype=laid.codes.dtype, device="meta")
        self.few = Panels(laid, bias, laid.codes.dtype, scratch)

    @classmethod
    def of(cls, linear: nn.Linear, scratch: Scratch) -> Self:
        """Return one with the weights of a plain linear."""
        return cls(Laid.of(linear.weight.detach()), linear.bias, scratch)

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
