"""Products with quantized weights on NVIDIA cards, by torch's own kernels.

int4 is torch's "tinygemm", made for few rows; fp8 its scaled product, for which inputs are rounded to fp8 too, each row
by a scale of its own. int8 has no fast kernel there: it saves memory, not time, and is written out at each call.
"""

from __future__ import annotations

import torch

from loradex.engine.local.quantized import Product
from loradex.engine.local.rounding import GROUP, Rounded

_TILES = 8
_WIDTH = 16 * _TILES
"""Inputs of an int4 weight must be a multiple of this, its outputs of 8 (`_convert_weight_to_int4pack`)."""

FP8 = torch.float8_e4m3fn


def cuda_product(rounded: Rounded, bias: torch.Tensor | None) -> tuple[Product, int] | None:
    """Return the product and the bytes of its weights; None where no kernel takes this shape."""
    out_features, in_features = rounded.codes.shape
    if rounded.codes.dtype is FP8 and out_features % 16 == in_features % 16 == 0:
        return _fp8(rounded, bias), rounded.nbytes
    if rounded.bits == 4 and in_features % _WIDTH == out_features % 8 == 0:
        return _int4(rounded, bias)
    return None


def _int4(rounded: Rounded, bias: torch.Tensor | None) -> tuple[Product, int]:
    out_features, in_features = rounded.codes.shape
    codes = rounded.codes.to(torch.int32) + 8
    packed = torch.ops.aten._convert_weight_to_int4pack((codes[:, ::2] << 4 | codes[:, 1::2]).to(torch.uint8), _TILES)
    # A weight is `(code - 8) * scale + zero`.
    scales = torch.stack([rounded.scales, torch.zeros_like(rounded.scales)], dim=2)
    scales = scales.transpose(0, 1).to(torch.bfloat16).contiguous()

    def product(x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = torch.ops.aten._weight_int4pack_mm(x.reshape(-1, in_features), packed, GROUP, scales)
        return (y if bias is None else y + bias).view(*x.shape[:-1], out_features)

    return product, packed.nbytes + scales.nbytes


def _fp8(rounded: Rounded, bias: torch.Tensor | None) -> Product:
    out_features, in_features = rounded.codes.shape
    codes, scales = rounded.codes.t(), rounded.scales.t().contiguous()
    largest = torch.finfo(FP8).max

    def product(x: torch.Tensor) -> torch.Tensor:
        rows = x.reshape(-1, in_features)
        own = rows.abs().amax(dim=1, keepdim=True).to(torch.float32).clamp_(min=1e-12) / largest
        short = (rows / own).clamp_(-largest, largest).to(FP8)
        y = torch._scaled_mm(short, codes, scale_a=own, scale_b=scales, out_dtype=x.dtype)
        return (y if bias is None else y + bias).view(*x.shape[:-1], out_features)

    return product
