"""The weights of a linear in panels, as the kernels read them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional

from loradex.engine.local.panel_tile import PANEL, STRIP
from loradex.engine.local.rounding import GROUP, Rounded

LAYOUT = f"panels-2-{STRIP}"
"""Names the order of `Laid` and its version. It depends on the processor's registers, not on the model."""


@dataclass(frozen=True, slots=True)
class Laid:
    """Weights `[out_features, in_features]` in panels of 64 outputs, the last one filled up with zeros.

    In `codes` a panel has its outputs in strips, and each strip input by input: bfloat16 (`bits` 16) or int8
    `[panels, 64 / STRIP, in_features, STRIP]`. int4 has no strips: two inputs are 16 words of 32 bits, uint8
    `[panels, in_features / 2, 16, 4]`. Word `j` holds the codes plus 8 of the outputs `j`, `16 + j`, `32 + j` and
    `48 + j`, from the lowest bits on: four times 4 bits for the first input, four for the second. `scales` are float32
    `[panels, 64]` for int8, bfloat16 `[panels, groups, 64]` for int4, and empty for bfloat16. Both are contiguous and
    may lie in a mapped file.
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
        scales = scales.transpose(1, 2).to(torch.bfloat16).contiguous()
        return cls(_words(panels), scales, 4, rows, columns)

    @property
    def nbytes(self) -> int:
        """Bytes of codes and scales."""
        return self.codes.nbytes + self.scales.nbytes

    def rows(self, begin: int, end: int) -> torch.Tensor:
        """Return rows of the weights that these codes mean, `[rows, in_features]`, bfloat16 or else float32."""
        first, last = begin // PANEL, -(-end // PANEL)
        codes, scales = self.codes[first:last], self.scales[first:last].float()
        if self.bits == 4:
            values = _unpacked(codes) * scales.repeat_interleave(GROUP, dim=1)
        else:
            values = codes.transpose(1, 2).flatten(2)
            values = values if self.bits == 16 else values.float() * scales.unsqueeze(1)
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


def _words(panels: torch.Tensor) -> torch.Tensor:
    """Return int4 codes `[panels, inputs, outputs]` as words."""
    codes = (panels + 8).to(torch.uint8).view(len(panels), -1, 2, 4, PANEL // 4).permute(0, 1, 4, 2, 3)
    return (codes[..., 0::2] | codes[..., 1::2] << 4).flatten(3).contiguous()


def _unpacked(words: torch.Tensor) -> torch.Tensor:
    """Return the codes of words as float32 `[panels, inputs, outputs]`."""
    both = torch.stack([words & 15, words >> 4], dim=-1)  # [panels, pairs, 16, 2 inputs * 2, 2]
    codes = both.view(*words.shape[:3], 2, 4).permute(0, 1, 3, 4, 2)
    return codes.reshape(len(words), -1, PANEL).float() - 8
