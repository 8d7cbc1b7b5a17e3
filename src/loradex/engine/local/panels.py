"""Products with a quantized linear on a CPU: the kernel for few rows, a dense product for many."""

from __future__ import annotations

import time
from functools import cache

import numpy as np
import torch
from torch.nn import functional

from loradex.engine.local import panels_numba as field
from loradex.engine.local.panels_numba import PANEL
from loradex.engine.local.rounding import Rounded
from loradex.engine.local.team import Team

SCRATCH = 1 << 20
"""Weights written out at a time for a dense product: enough for its speed, and little beside the base."""

# Rows up to which the kernel is used, by the dtype of the dense product. It needs time for each row, the dense product
# for writing all weights out; where bfloat16 is no faster than float32, rows cost both nearly the same.
_NARROW = {torch.float32: 64, torch.bfloat16: 16}

_KERNELS = {
    8: (Team(field.int8.address), Team(field.unpack8.address)),
    4: (Team(field.int4.address), Team(field.unpack4.address)),
}
"""By bits: what multiplies, and what writes out."""


class Scratch:
    """Where the linears of one engine write weights out, one after another."""

    def __init__(self) -> None:
        self._memory = torch.empty(0)

    def matrix(self, rows: int, columns: int, dtype: torch.dtype) -> torch.Tensor:
        """Return `[rows, columns]`, not set to anything; the matrix returned before is lost."""
        size = rows * columns
        if self._memory.numel() < size or self._memory.dtype is not dtype:
            self._memory = torch.empty(size, dtype=dtype)
        return self._memory[:size].view(rows, columns)


class Panels:
    """The weights of one linear in panels of 64 outputs, as the kernel reads them; nothing is kept beside them.

    Args:
        rounded: the weights, int8 or int4.
        bias: `[out_features]`, or None.
        dtype: of inputs and outputs, bfloat16 or float32.
        scratch: shared with the other linears of the engine.
    """

    def __init__(self, rounded: Rounded, bias: torch.Tensor | None, dtype: torch.dtype, scratch: Scratch) -> None:
        self.out_features, self.in_features = rounded.codes.shape
        self.count = -(-self.out_features // PANEL)
        self.bits = rounded.bits
        self.codes = self._codes(rounded.codes)
        self.scales = self._scales(rounded.scales)
        self.bias = self._padded(torch.zeros(self.out_features) if bias is None else bias.detach().float())
        self._scratch = scratch
        self._dense = dense_dtype(dtype)
        self._most = _NARROW[self._dense] * self.in_features
        self._multiply, self._unpack = _KERNELS[self.bits]
        self._job, self._writing = self._new_job(dtype), self._new_job(self._dense)
        self._job[field.PITCH] = self.count * PANEL
        self._share(self._job, 0, self.count)
        self._address = self._job.ctypes.data

    @property
    def nbytes(self) -> int:
        """Bytes of codes and scales."""
        return self.codes.nbytes + self.scales.nbytes

    def weight(self, begin: int, end: int) -> torch.Tensor:
        """Return rows of the weights that these codes mean, `[rows, in_features]` in float32."""
        first, last = begin // PANEL, -(-end // PANEL)
        codes, scales = self.codes[first:last], self.scales[first:last].float()
        if self.bits == 4:
            # The halves of a byte are outputs that lie half a panel apart.
            low, high = (codes << 4) >> 4, codes >> 4
            values = torch.cat([low, high], dim=2).float().unflatten(1, (scales.shape[1], -1)) * scales.unsqueeze(2)
            values = values.flatten(1, 2)
        else:
            values = codes.float() * scales.unsqueeze(1)
        rows = values.transpose(1, 2).reshape(-1, self.in_features)
        return rows[begin - first * PANEL : end - first * PANEL]

    def product(self, x: torch.Tensor) -> torch.Tensor:
        """Return `x W^T + b`; `x` is `[..., in_features]`."""
        if x.numel() > self._most:
            return self._many(x.reshape(-1, self.in_features)).view(*x.shape[:-1], self.out_features)
        wide = x.to(torch.float32).contiguous()
        y = x.new_empty(*x.shape[:-1], self.count * PANEL)
        own = self._job
        own[field.TAKEN], own[field.INPUT], own[field.OUTPUT] = 0, wide.data_ptr(), y.data_ptr()
        own[field.ROWS] = x.numel() // self.in_features
        self._multiply.together(self._address)
        return y if y.shape[-1] == self.out_features else y[..., : self.out_features].contiguous()

    def _many(self, x: torch.Tensor) -> torch.Tensor:
        """Write some panels out at a time, and multiply with those."""
        y = x.new_empty(len(x), self.out_features)
        wide = x.to(self._dense)
        share = max(1, SCRATCH // (self.in_features * PANEL))
        own = self._writing
        for first in range(0, self.count, share):
            count = min(share, self.count - first)
            weights = self._scratch.matrix(self.in_features, count * PANEL, self._dense)
            self._share(own, first, count)
            own[field.OUTPUT], own[field.PITCH] = weights.data_ptr(), count * PANEL
            self._unpack.together(own.ctypes.data)
            columns = slice(first * PANEL, min((first + count) * PANEL, self.out_features))
            part = torch.mm(wide, weights)[:, : columns.stop - columns.start]
            if self.bits == 8:  # codes of 8 bits fit into bfloat16, their products with a scale do not
                part = part * self.scales.flatten()[columns]
            y[:, columns] = part + self.bias[columns]
        return y

    def _new_job(self, dtype: torch.dtype) -> np.ndarray:
        own = np.zeros(field.FIELDS, np.int64)
        own[field.WIDTH], own[field.BIAS] = self.in_features, self.bias.data_ptr()
        own[field.CODES_STEP], own[field.SCALES_STEP] = self.codes[0].nbytes, self.scales[0].nbytes
        own[field.WIDE] = dtype is torch.float32
        return own

    def _share(self, job: np.ndarray, first: int, count: int) -> None:
        """Let a job work on some panels, from its own column 0 on."""
        job[field.TAKEN] = 0
        job[field.CODES] = self.codes.data_ptr() + first * job[field.CODES_STEP]
        job[field.SCALES] = self.scales.data_ptr() + first * job[field.SCALES_STEP]
        job[field.PANELS], job[field.SHARE] = count, max(1, count // (4 * self._multiply.size))

    def _padded(self, rows: torch.Tensor) -> torch.Tensor:
        """Return `rows` with as many more of zeros as fill the last panel."""
        extra = self.count * PANEL - len(rows)
        return functional.pad(rows, (0, 0) * (rows.dim() - 1) + (0, extra)).contiguous()

    def _codes(self, codes: torch.Tensor) -> torch.Tensor:
        panels = self._padded(codes).view(self.count, PANEL, self.in_features).transpose(1, 2).contiguous()
        if self.bits == 8:
            return panels
        return (panels[..., : PANEL // 2] & 15) | (panels[..., PANEL // 2 :] << 4)

    def _scales(self, scales: torch.Tensor) -> torch.Tensor:
        panels = self._padded(scales).view(self.count, PANEL, -1)
        if self.bits == 8:
            return panels.squeeze(2).contiguous()
        return panels.transpose(1, 2).to(torch.bfloat16).contiguous()


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
