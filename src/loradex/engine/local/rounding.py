"""Weights rounded to few bits, and the scales that lead back: the values that a quantized base computes with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

GROUP = 32
"""Inputs that share a scale in int4, as in most int4 checkpoints."""

_BLOCK = 1 << 23
"""Weights rounded at a time: what is computed in float32 on the way must not be as large as the base."""


@dataclass(frozen=True, slots=True)
class Rounded:
    """A weight is its code times the scale of its group.

    `codes` are `[out_features, in_features]`, int8 (in int4 from -8 to 7) or float8_e4m3fn; `scales` are float32
    `[out_features, groups]`, where a group is a run of neighbouring inputs.
    """

    codes: torch.Tensor
    scales: torch.Tensor
    bits: int

    @property
    def nbytes(self) -> int:
        """Bytes of codes and scales as they lie here."""
        return self.codes.nbytes + self.scales.nbytes

    def values(self, dtype: torch.dtype) -> torch.Tensor:
        """Return the weights that these codes mean, `[out_features, in_features]`, rounded to `dtype`."""
        grouped = self.codes.to(torch.float32).view(*self.scales.shape, -1)
        return (grouped * self.scales.unsqueeze(2)).view(self.codes.shape).to(dtype)


def round_weight(weight: torch.Tensor, method: str) -> Rounded:
    """Round a weight `[out_features, in_features]` by the method `int8`, `int4` or `fp8`.

    int8 and fp8 have one scale for each output, int4 one for each 32 inputs of it. An int4 weight whose inputs are no
    multiple of 32 becomes int8.
    """
    if method == "int4" and weight.shape[1] % GROUP:
        method = "int8"
    bits, rounding = _METHODS[method]
    rows = max(1, _BLOCK // weight.shape[1])
    parts = [rounding(part.detach().to(torch.float32)) for part in torch.split(weight, rows)]
    return Rounded(torch.cat([codes for codes, _ in parts]), torch.cat([scales for _, scales in parts]), bits)


def _int8(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    scales = _nonzero(weight.abs().amax(dim=1, keepdim=True) / 127)
    return (weight / scales).round_().to(torch.int8), scales


def _int4(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Map the value farthest from zero to -8, whatever its sign: then no code is wasted.

    Scales keep five significant bits. A code has three, or is -8: their product fits into bfloat16, so that a product
    in that dtype uses the same weights as one in float32. It costs 0.2 % more rounding error.
    """
    groups = weight.view(weight.shape[0], -1, GROUP)
    farthest = groups.gather(2, groups.abs().argmax(dim=2, keepdim=True))
    mantissa, exponent = torch.frexp(farthest / -8)
    scales = _nonzero(torch.ldexp((mantissa * 32).round_() / 32, exponent))
    codes = (groups / scales).round_().clamp_(-8, 7).to(torch.int8)
    return codes.view(weight.shape), scales.squeeze(2)


def _fp8(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    largest = torch.finfo(torch.float8_e4m3fn).max
    scales = _nonzero(weight.abs().amax(dim=1, keepdim=True) / largest)
    return (weight / scales).clamp_(-largest, largest).to(torch.float8_e4m3fn), scales


def _nonzero(scales: torch.Tensor) -> torch.Tensor:
    return torch.where(scales == 0, torch.ones_like(scales), scales)


_METHODS: dict[str, tuple[int, Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]]] = {
    "int8": (8, _int8),
    "int4": (4, _int4),
    "fp8": (8, _fp8),
}
