"""The job of one base linear for the kernel of few rows."""

from __future__ import annotations

import numpy as np
import torch

from loradex.engine.local import gemv_numba as field
from loradex.engine.local.packed import Aim, Places
from loradex.engine.local.team import Team

ROWS = max(field.SIZES)
"""The most rows that a job takes."""

_PLACES = [next(i for i, size in enumerate(field.SIZES) if size >= rows) for rows in range(1, ROWS + 1)]
_TEAM = Team(field.kernel.address)
_WHERE = Places(
    field.FIELDS, field.INPUT, field.OUTPUT, field.LORA, field.SIZE, zeros=(field.TAKEN, field.DONE), wide=None
)


class GemvJob:
    """Multiplies up to `ROWS` rows with packed weights.

    Args:
        blocks: bfloat16 `[out / 64, in / 2, 64, 2]`, a view of memory that the caller keeps.
        bias: bfloat16 `[out]`, or None.
    """

    places = _WHERE
    rows = ROWS

    def __init__(self, blocks: torch.Tensor, bias: torch.Tensor | None) -> None:
        self.pitch = self.outputs = blocks.shape[0] * field.BLOCK
        self.inputs = 2 * blocks.shape[1]
        self._bias = torch.zeros(self.pitch, dtype=torch.bfloat16) if bias is None else bias.contiguous()
        self._fields = np.zeros(field.FIELDS, np.int64)
        self._address = self._fields.ctypes.data
        own = self._fields
        own[field.WEIGHTS], own[field.BIAS] = blocks.data_ptr(), self._bias.data_ptr()
        own[field.BLOCKS], own[field.PAIRS] = blocks.shape[0], blocks.shape[1]

    @property
    def kernel(self) -> int:
        """The address of the C function that runs the job."""
        return _TEAM.address

    @property
    def fields(self) -> np.ndarray:
        """The job as it was last made ready; whoever runs a copy sets what changes with each call."""
        return self._fields

    def size(self, rows: int) -> int:
        """Return the place of the size of job that so many rows take."""
        return _PLACES[rows - 1]

    def product(self, x: torch.Tensor, lora: Aim | None = None) -> torch.Tensor:
        """Return `x W^T + b`, `[..., out]`, plus what a LoRA job adds; `x` is bfloat16, up to `ROWS` rows."""
        rows = x.numel() // x.shape[-1]
        place = self.size(rows)
        size = field.SIZES[place]
        x, shape = _filled(x, rows, size), x.shape[:-1]
        y = x.new_empty(size, self.pitch)
        own = self._fields
        own[field.TAKEN] = own[field.DONE] = 0
        own[field.INPUT], own[field.OUTPUT] = x.data_ptr(), y.data_ptr()
        own[field.SIZE] = place
        own[field.LORA] = 0 if lora is None else lora(x, y, _TEAM.size)
        _TEAM.together(self._address)
        return y[:rows].view(*shape, self.pitch)


def _filled(x: torch.Tensor, rows: int, size: int) -> torch.Tensor:
    """Return `x` in one piece, with rows up to `size` behind it, which may hold anything: theirs are dropped."""
    if rows == size:
        return x.contiguous()
    filled = x.new_empty(size, x.shape[-1])
    filled[:rows] = x.reshape(rows, x.shape[-1])
    return filled
