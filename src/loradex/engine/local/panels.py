"""Products with weights in panels on a CPU: a kernel, and for many rows a dense product where that pays."""

from __future__ import annotations

import time
from functools import cache

import numpy as np
import torch
from torch.nn import functional

from loradex.engine.local import panels_numba as field
from loradex.engine.local.laid import Laid
from loradex.engine.local.packed import Aim, Places
from loradex.engine.local.panel_tile import PANEL, STRIP
from loradex.engine.local.panels_numba import DONE, INPUT, LORA, OUTPUT, RAW, ROWS, TAKEN, THREADS
from loradex.engine.local.team import Team
from loradex.engine.local.vectors import LANES

SCRATCH = 1 << 20
"""Weights written out at a time for a dense product: enough for its speed, and little beside the base."""

# Rows up to which the kernel is used, by the dtype of the dense product. It needs time for each row, the dense product
# for writing all weights out; where bfloat16 is no faster than float32, rows cost both nearly the same. In strips the
# kernel keeps up with any dense product, and bfloat16 weights are in panels only where no other product is fast.
_NARROW = {torch.float32: 64, torch.bfloat16: 16}
_ALL = 1 << 30

_RAW = 64
"""Rows up to which each thread widens them for itself: less than what a call of torch's costs."""

_KERNELS = {bits: Team(kernel.address) for bits, kernel in ((16, field.bf16), (8, field.int8), (4, field.int4))}
_UNPACK = {bits: Team(kernel.address) for bits, kernel in ((8, field.unpack8), (4, field.unpack4))}


class Scratch:
    """Where the linears of one engine write weights out or widen inputs, one after another."""

    def __init__(self) -> None:
        self._memory = torch.empty(0)
        self._floats = torch.empty(0)
        self._room = 0
        self._address = 0

    def room(self, count: int) -> int:
        """Return the address of `count` float32, not set to anything; what lay there before is lost."""
        if count > self._room:
            self._floats, self._room = torch.empty(count), count
            self._address = self._floats.data_ptr()
        return self._address

    def matrix(self, rows: int, columns: int, dtype: torch.dtype) -> torch.Tensor:
        """Return `[rows, columns]`, not set to anything; the matrix returned before is lost."""
        size = rows * columns
        if self._memory.numel() < size or self._memory.dtype is not dtype:
            self._memory = torch.empty(size, dtype=dtype)
        return self._memory[:size].view(rows, columns)


class Panels:
    """Multiplies with the weights of one linear; nothing is kept beside them.

    Args:
        laid: the weights.
        bias: `[out_features]`, or None.
        dtype: of inputs and outputs, bfloat16 or float32.
        scratch: shared with the other linears of the engine.

    `pitch` are the columns of what the kernel writes, whole panels.
    """

    places = Places(field.FIELDS, RAW, OUTPUT, LORA, ROWS, zeros=(TAKEN, DONE, THREADS), wide=INPUT)
    rows = _RAW

    def __init__(self, laid: Laid, bias: torch.Tensor | None, dtype: torch.dtype, scratch: Scratch) -> None:
        self.laid, self.dtype = laid, dtype
        self.inputs, self.outputs = laid.in_features, laid.out_features
        self.count = len(laid.codes)
        added = torch.zeros(laid.out_features) if bias is None else bias.detach().float()
        self.bias = functional.pad(added, (0, self.count * PANEL - laid.out_features)).contiguous()
        self._scratch = scratch
        self._dense = dense_dtype(dtype)
        every = laid.bits == 16 or (STRIP < PANEL and laid.bits == 8)
        self._most = (_ALL if every else _NARROW[self._dense]) * laid.in_features
        self._multiply = _KERNELS[laid.bits]
        self._job, self._writing = self._new_job(dtype), self._new_job(self._dense)
        self._job[field.PITCH] = self.pitch = self.count * PANEL
        self._share(self._job, 0, self.count)
        self._address: int = self._job.ctypes.data
        self._fields = memoryview(self._job)  # is written to faster
        self._raw = _RAW * laid.in_features if dtype is torch.bfloat16 and (STRIP < PANEL or laid.bits == 4) else 0
        self._joins = dtype is torch.bfloat16 and laid.out_features % PANEL == 0

    @property
    def fields(self) -> np.ndarray:
        """The job as it was last made ready; whoever runs a copy sets what changes with each call."""
        return self._job

    @property
    def kernel(self) -> int:
        """The address of the C function that runs the job."""
        return self._multiply.address

    def size(self, rows: int) -> int:
        """Return what the job has for so many rows."""
        return rows

    def takes(self, x: torch.Tensor) -> bool:
        """Whether `product` can add what a LoRA job adds to these rows."""
        return self._joins and 0 < x.numel() <= self._most

    def product(self, x: torch.Tensor, lora: Aim | None = None) -> torch.Tensor:
        """Return `x W^T + b`, plus what a LoRA job adds; `x` is `[..., in_features]`."""
        size, outputs = x.numel(), self.laid.out_features
        if size > self._most:
            return self._many(x.reshape(-1, self.laid.in_features)).view(*x.shape[:-1], outputs)
        x = x.contiguous()
        y = x.new_empty((*x.shape[:-1], self.pitch))
        own, threads = self._fields, self._multiply.size
        own[TAKEN] = own[DONE] = own[THREADS] = 0
        if size <= self._raw and size % LANES == 0:
            own[RAW], own[INPUT] = x.data_ptr(), self._scratch.room(threads * size)
        else:
            wide = x.to(torch.float32)
            own[RAW], own[INPUT] = 0, wide.data_ptr()
        own[OUTPUT], own[ROWS] = y.data_ptr(), size // self.laid.in_features
        own[LORA] = 0 if lora is None else lora(x, y, threads)
        self._multiply.together(self._address)
        return y if self.pitch == outputs else y[..., :outputs].contiguous()

    def _many(self, x: torch.Tensor) -> torch.Tensor:
        """Write some panels out at a time, and multiply with those."""
        inputs, outputs = self.laid.in_features, self.laid.out_features
        y = x.new_empty(len(x), outputs)
        wide = x.to(self._dense)
        share = max(1, SCRATCH // (inputs * PANEL))
        own = self._writing
        for first in range(0, self.count, share):
            count = min(share, self.count - first)
            weights = self._scratch.matrix(inputs, count * PANEL, self._dense)
            self._share(own, first, count)
            own[field.OUTPUT], own[field.PITCH] = weights.data_ptr(), count * PANEL
            _UNPACK[self.laid.bits].together(own.ctypes.data)
            columns = slice(first * PANEL, min((first + count) * PANEL, outputs))
            part = torch.mm(wide, weights)[:, : columns.stop - columns.start]
            if self.laid.bits == 8:  # codes of 8 bits fit into bfloat16, their products with a scale do not
                part = part * self.laid.scales.flatten()[columns]
            y[:, columns] = part + self.bias[columns]
        return y

    def _new_job(self, dtype: torch.dtype) -> np.ndarray:
        own = np.zeros(field.FIELDS, np.int64)
        own[field.WIDTH], own[field.BIAS] = self.laid.in_features, self.bias.data_ptr()
        own[field.CODES_STEP], own[field.SCALES_STEP] = self.laid.codes[0].nbytes, self.laid.scales[0].nbytes
        own[field.WIDE] = dtype is torch.float32
        return own

    def _share(self, job: np.ndarray, first: int, count: int) -> None:
        """Let a job work on some panels, from its own column 0 on."""
        job[field.TAKEN] = 0
        job[field.CODES] = self.laid.codes.data_ptr() + first * job[field.CODES_STEP]
        job[field.SCALES] = self.laid.scales.data_ptr() + first * job[field.SCALES_STEP]
        job[field.PANELS], job[field.SHARE] = count, max(1, count // (4 * self._multiply.size))


@cache
def dense_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype in which this processor multiplies many rows fastest without losing what `dtype` holds.

    Measured in some ten milliseconds, once: bfloat16 has processors on which it takes twice as long as float32, and
    others on which it takes a fifth.
    """
    return min((torch.float32, dtype), key=_dense_seconds)


def _dense_seconds(dtype: torch.dtype) -> float:
    x, weights = torch.ones(128, 1024, dtype=dtype), torch.ones(1024, 1024, dtype=dtype)
    times = []
    for _ in range(4):
        began = time.perf_counter()
        torch.mm(x, weights)
        times.append(time.perf_counter() - began)
    return min(times)
