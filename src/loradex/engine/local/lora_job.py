"""The job of one linear for the LoRA kernel: its table of adapters, and what changes with each call."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from loradex.engine.local import lora_numba as field
from loradex.engine.local.batch import Narrow
from loradex.engine.local.lora import LoraPair, Segment
from loradex.engine.local.team import Team

KERNELS = {torch.bfloat16: field.bf16, torch.float32: field.fp32}
"""By the dtype of inputs, outputs and adapters."""

NARROW = 16
"""Rows up to which a segment is the kernel's; beyond, two matrix products are faster."""

TOGETHER = 4
"""Rows from which on a second thread brings more than it costs to wake."""


def divide(segments: Sequence[Segment]) -> tuple[Narrow | None, tuple[Segment, ...]]:
    """Return the narrow segments as the kernel reads them, None where there are none, and the others."""
    narrow = [segment for segment in segments if segment.end - segment.start <= NARROW]
    wide = tuple(segment for segment in segments if segment.end - segment.start > NARROW)
    return Narrow(narrow) if narrow else None, wide


def take_all(segments: Sequence[Segment]) -> tuple[Narrow, tuple[Segment, ...]]:
    """Do as `divide` where the kernel is faster than matrix products of the adapters' dtype with any number of rows."""
    return Narrow(segments), ()


class LoraJob:
    """Adds narrow segments' products to one linear's output.

    Adapters are read where they lie: the table holds addresses, so whoever sets a pair keeps its tensors alive.
    """

    def __init__(self, in_features: int, out_features: int, slots: int, dtype: torch.dtype) -> None:
        self.calls = 0
        self._team = Team(KERNELS[dtype].address)
        self._table = np.zeros((slots, 3), np.int64)
        self._scaling = np.zeros(slots, np.float32)
        self._products = np.zeros(0, np.float32)
        self._fields = np.zeros(field.FIELDS, np.int64)
        self._address = self._fields.ctypes.data
        own = self._fields
        own[field.WIDTH_IN], own[field.WIDTH_OUT], own[field.SLOTS] = in_features, out_features, slots
        own[field.TABLE], own[field.SCALING] = self._table.ctypes.data, self._scaling.ctypes.data
        self._rank = 0

    @property
    def rank(self) -> int:
        """The largest rank in the table."""
        return self._rank

    @property
    def fields(self) -> np.ndarray:
        """The job as it was last made ready; whoever runs a copy sets what changes with each call, and the rank."""
        return self._fields

    def put(self, slot: int, pair: LoraPair | None) -> None:
        """Set or clear what a slot holds."""
        if pair is None:
            self._table[slot] = 0
        else:
            self._table[slot] = pair.a.data_ptr(), pair.b.data_ptr(), pair.a.shape[0]
            self._scaling[slot] = pair.scaling
        self._rank = int(self._table[:, 2].max())
        self._fields[field.RANK] = self._rank

    def add(self, x: torch.Tensor, y: torch.Tensor, narrow: Narrow) -> None:
        """Add the products of the narrow segments to `y` (`[rows, out_features]`, contiguous), in place.

        `x` is `[rows, in_features]`.
        """
        x = x.contiguous()
        threads = 1 if narrow.rows < TOGETHER else self._team.size
        address = self.aim(x, y, narrow, threads)
        if address and threads == 1:
            self._team.quick(address)
        elif address:
            self._team.together(address)

    def aim(self, x: torch.Tensor, y: torch.Tensor, narrow: Narrow, threads: int) -> int:
        """Make the job ready to be run by so many threads, and return its address; 0 if there is nothing to add.

        `x` and `y` are as for `add`, both contiguous, and stay where they are until it was run.
        """
        if not self._rank:
            return 0
        own, room = self._fields, narrow.rows * self._rank
        if room > self._products.size:
            self._products = np.zeros(room, np.float32)
            own[field.PRODUCTS] = self._products.ctypes.data
        own[field.TAKEN] = own[field.SHRUNK] = 0
        own[field.THREADS] = threads
        own[field.SEGMENTS], own[field.SEGMENT], own[field.ROWS] = narrow.count, narrow.address, narrow.rows
        own[field.INPUT], own[field.OUTPUT] = x.data_ptr(), y.data_ptr()
        self.calls += 1
        return self._address
