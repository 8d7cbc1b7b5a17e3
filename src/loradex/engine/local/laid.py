"""The weights of a linear in panels, as the kernels read them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional

from loradex.engine.local.panel_tile import PANEL, STRIP
from loradex.engine.local.rounding import GROUP, Rounded

LAYOUT = f"panels-1-{STRIP}"
"""Names the order of `Laid` and its version. It depends on the processor's registers, not on the model."""


@dataclass(frozen=True, slots=True)
class Laid:
    """Weights `[out_features, in_features]` in panels of 64 outputs, the last one filled up with zeros.

    In `codes` a panel has its outputs in strips, and each strip input by input: bfloat16 (`bits` 16) or int8
    `[panels, 64 / STRIP, in_features, STRIP]`; in int4 a byte holds the codes of outputs that lie half a panel apart,
    and strips are at most half a panel wide. `scales` are float32 `[panels, 64]` for int8, bfloat16
    `[panels, groups, 64]` for int4, and empty for bfloat16. Both are contiguous and may lie in a mapped file.
    """

    codes: torch.Tensor
    scales: torch.Tensor
    bits: int
    out_features: int
    in_features: int

    @classmethod
    def of(cls, weight: torch.Tensor | Rounded) -> Laid:
        """Lay out bfloat16 weights, or rounded ones."""
        codes = weight if isinstance(weight, torch.Tensor) else weight.codes
        rows, columns = codes.shape
        panels = _panels(codes).transpose(1, 2)
        if isinstance(weight, torch.Tensor):
            return cls(_strips(panels), torch.empty(len(panels), 0), 16, rows, columns)
        scales = _panels(weight.scales)
        if weight.bits == 8:
            return cls(_strips(panels), scales.squeeze(2).contiguous(), 8, rows, columns)
        both = (panels[..., : PANEL // 2] & 15) | (panels[..., PANEL // 2 :] << 4)
        return cls(_strips(both), scales.transpose(1, 2).to(torch.bfloat16).contiguous(), 4, rows, columns)

    @property
    def nbytes(self) -> int:
        """Bytes of codes and scales."""
        return self.codes.nbytes + self.scales.nbytes

    def rows(self, begin: int, end: int) -> torch.Tensor:
        """Return rows of the weights that these codes mean, `[rows, in_features]`, bfloat16 or else float32."""
        first, last = begin // PANEL, -(-end // PANEL)
        codes = self.codes[first:last].transpose(1, 2).flatten(2)
        scales = self.scales[first:last].float()
        if self.bits == 16:
            values = codes
        elif self.bits == 8:
            values = codes.float() * scales.unsqueeze(1)
        else:
            low, high = (codes << 4) >> 4, codes >> 4
            values = torch.cat([low, high], dim=2).float() * scales.repeat_interleave(GROUP, dim=1)
        rows = values.transpose(1, 2).reshape(-1, self.in_features)
        return rows[begin - first * PANEL : end - first * PANEL]


def _panels(rows: torch.Tensor) -> torch.Tensor:
    """Return `[panels, 64, columns]`."""
    filled = functional.pad(rows, (0, 0, 0, -len(rows) % PANEL))
    return filled.view(-1, PANEL, rows.shape[1])


def _strips(panels: torch.Tensor) -> torch.Tensor:
    """Return `[panels, strips, inputs, strip]` of `[panels, inputs, outputs]`."""
    width = min(STRIP, panels.shape[2])
    return panels.reshape(*panels.shape[:2], -1, width).transpose(1, 2).contiguous()
