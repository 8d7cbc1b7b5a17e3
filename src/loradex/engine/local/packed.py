"""Linears whose weights lie in the order that the processor's matrix product wants them."""

from __future__ import annotations

import torch
from torch import nn


class PackedLinear(nn.Module):
    """A linear of bfloat16 weights on a CPU, packed once by oneDNN.

    `F.linear` would reorder the weights at every call, or run a slower kernel. The result is the same. `weight` has the
    shape and dtype of the original and no data, for model code that only asks for those.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features = linear.in_features
        self.out_features = linear.out_features
        self.bias = linear.bias
        self.weight = torch.empty_like(linear.weight, device="meta")
        self.packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return `x W^T + b`; `x` is `[..., in_features]`."""
        return torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, "none", [], "")


def can_pack(linear: nn.Module) -> bool:
    """Whether packing serves this linear: bfloat16 on a CPU whose oneDNN computes in it."""
    return (
        type(linear) is nn.Linear
        and linear.weight.device.type == "cpu"
        and linear.weight.dtype is torch.bfloat16
        and torch.backends.mkldnn.is_available()
        and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )
