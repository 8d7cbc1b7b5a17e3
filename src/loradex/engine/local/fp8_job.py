"""The job of reading a cache of 8-bit floats."""

from __future__ import annotations

import numpy as np
import torch

from loradex.engine.local import fp8_numba as field
from loradex.engine.local.team import Team

DTYPES = (torch.bfloat16, torch.float32)
"""What it can widen to."""

VALUES = field.LANES
"""The number of values in a cell must be a multiple of this."""

TOGETHER = 1 << 16
"""Values from which on a second thread brings more than it costs to wake."""


class Fp8Job:
    """Reads cells for one engine; see `Read` in `kvcache_fp8`."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self._team = Team(field.gathered.address)
        self._fields = np.zeros(field.FIELDS, np.int64)
        self._fields[field.WIDE] = dtype is torch.float32

    def decode(self, pool: torch.Tensor, cells: torch.Tensor, scale: float) -> torch.Tensor:
        """Return the values of `cells` (of any shape) in `pool` (`[all cells, heads, dim]`), `[*cells, heads, dim]`."""
        cells = cells.contiguous()
        out = torch.empty(*cells.shape, *pool.shape[1:], dtype=self.dtype)
        own = self._fields
        own[field.TAKEN], own[field.COUNT], own[field.SIZE] = 0, cells.numel(), pool[0].numel()
        own[field.POOL], own[field.CELLS], own[field.OUTPUT] = pool.data_ptr(), cells.data_ptr(), out.data_ptr()
        own[field.SCALE : field.SCALE + 1].view(np.float32)[0] = scale
        run = self._team.together if out.numel() >= TOGETHER else self._team.alone
        run(own.ctypes.data)
        return out
