"""Linears that get the same input, with what the LoRA kernel needs to serve them in one call."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from loradex.engine.local import lora_numba as job
from loradex.engine.local.batch import Narrow
from loradex.engine.local.lora import LoraPair
from loradex.engine.local.team import Team

KERNELS = {torch.bfloat16: job.bf16, torch.float32: job.fp32}


class LoraGroup:
    """The first member that is asked computes all members' outputs; the others then hand out what is there.

    `bases` are the members' linears without adapters, `widths` their out_features. Adapters are read where they lie:
    tables hold addresses, so whoever sets a pair keeps its tensors alive.
    """

    def __init__(
        self,
        bases: Sequence[Callable[[torch.Tensor], torch.Tensor]],
        in_features: int,
        widths: Sequence[int],
        slots: int,
        dtype: torch.dtype,
    ) -> None:
        self.calls = 0
        self._bases = bases
        self._dtype = dtype
        self._team = Team(KERNELS[dtype].address)
        self._table = np.zeros((len(bases), slots, 3), np.int64)
        self._scaling = np.zeros((len(bases), slots), np.float32)
        self._products = np.zeros(0, np.float32)
        self._job = np.zeros(job.OUTPUTS + 2 * len(bases), np.int64)
        self._job[[job.WIDTH_IN, job.SLOTS, job.MEMBERS]] = in_features, slots, len(bases)
        self._job[[job.TABLE, job.SCALING]] = self._table.ctypes.data, self._scaling.ctypes.data
        self._job[job.OUTPUTS + 1 :: 2] = widths
        self._address = self._job.ctypes.data
        self._input: torch.Tensor | None = None
        self._outputs: dict[int, torch.Tensor] = {}

    def put(self, member: int, slot: int, pair: LoraPair | None) -> None:
        """Set or clear what a slot holds for a member."""
        if pair is None:
            self._table[member, slot] = 0
        else:
            self._table[member, slot] = pair.a.data_ptr(), pair.b.data_ptr(), pair.a.shape[0]
            self._scaling[member, slot] = pair.scaling
        self._job[job.RANK] = self._table[:, :, 2].max()

    def output(self, member: int, x: torch.Tensor, narrow: Narrow) -> torch.Tensor:
        """Return a member's output for `x` (`[..., in_features]`) with the products of the narrow segments added."""
        if x is not self._input or member not in self._outputs:
            self._input = x
            self._outputs = {i: base(x).contiguous() for i, base in enumerate(self._bases)}
            if self._job[job.RANK]:
                self._add(x.contiguous(), narrow)
        mine = self._outputs.pop(member)
        if not self._outputs:
            self._input = None
        return mine

    def _add(self, x: torch.Tensor, narrow: Narrow) -> None:
        own, rows = self._job, x.numel() // x.shape[-1]
        room = len(self._bases) * rows * int(own[job.RANK])
        if room > self._products.size:
            self._products = np.zeros(room, np.float32)
            own[job.PRODUCTS] = self._products.ctypes.data
        own[job.TAKEN] = own[job.SHRUNK] = 0
        own[job.SEGMENTS], own[job.SEGMENT], own[job.ROWS] = narrow.count, narrow.address, rows
        own[job.INPUT] = x.data_ptr()
        for member, y in self._outputs.items():
            own[job.OUTPUTS + 2 * member] = y.data_ptr()
        self.calls += 1
        own[job.THREADS] = self._team.size
        self._team.together(self._address)
