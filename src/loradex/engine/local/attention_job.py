"""The job of attention of single rows on a CPU."""

from __future__ import annotations

import numpy as np
import torch

from loradex.engine.local import attention_numba as field
from loradex.engine.local.batch import Decodes
from loradex.engine.local.team import Team
from loradex.engine.local.vectors import LANES

TOGETHER = 1024
"""Heads of cells that are read, from which on a second thread brings more than it costs to wake."""

EVERYTHING = 1 << 62
"""A window that leaves nothing out."""


class AttentionJob:
    """Attends the decodes of one engine to its bfloat16 cache, without gathering keys and values."""

    def __init__(self) -> None:
        self._team = Team(field.bf16.address)
        self._scratch = torch.empty(0)
        self._fields = np.zeros(field.FIELDS, np.int64)
        self._address: int = self._fields.ctypes.data

    def takes(self, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> bool:
        """Whether the kernel computes in this dtype and in heads of this size."""
        return query.dtype is keys.dtype is torch.bfloat16 and keys.shape[2] % LANES == values.shape[2] % LANES == 0

    def attend(
        self,
        query: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        decodes: Decodes,
        scaling: float | None,
        window: int | None,
    ) -> torch.Tensor:
        """Return `[sequences, query heads, value dim]` for `query` (`[sequences, query heads, dim]`).

        `keys` and `values` are all of a layer, `[cells, heads, dim]`.
        """
        count, heads, dim = query.shape
        groups, wide, longest = keys.shape[1], values.shape[2], decodes.cells.shape[1]
        query = query.contiguous()
        cells = decodes.cells.contiguous()
        lengths = decodes.lengths
        out = query.new_empty(count, heads, wide)
        own, queries = self._fields, heads // groups
        room = queries * (dim + -(-longest // LANES) * LANES + LANES)
        if self._scratch.numel() < count * groups * room:
            self._scratch = torch.empty(count * groups * room)
        own[field.TAKEN], own[field.UNITS] = 0, count * groups
        own[field.HEADS], own[field.QUERIES], own[field.KEY_DIM], own[field.VALUE_DIM] = groups, queries, dim, wide
        own[field.QUERY], own[field.OUTPUT] = query.data_ptr(), out.data_ptr()
        own[field.KEYS], own[field.VALUES] = keys.data_ptr(), values.data_ptr()
        own[field.CELLS], own[field.LONGEST], own[field.LENGTHS] = cells.data_ptr(), longest, lengths.data_ptr()
        own[field.WINDOW] = EVERYTHING if window is None else window
        own.view(np.float64)[field.SCALING] = dim**-0.5 if scaling is None else scaling
        own[field.SCRATCH], own[field.ROOM] = self._scratch.data_ptr(), room
        if count * groups * longest < TOGETHER:
            self._team.quick(self._address)
        else:
            self._team.together(self._address)
        return out
