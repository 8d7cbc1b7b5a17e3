"""The LoRA kernel of graphics cards for a model's linears: one table of all adapters, and a job for each linear."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from loradex.engine.local.lora import LoraPair, Segment, apply_lora
from loradex.engine.local.lora_triton import ALIGNED, add_products, ranks_at_once
from loradex.engine.local.tiles import MANY, Tiles

DTYPES = {torch.bfloat16: 2e-2, torch.float16: 4e-3, torch.float32: 1e-4}
"""What the kernel computes in, and the deviation that rounding explains in it."""


class TritonTable:
    """Where the adapters of all linears lie: a table that is written here and follows on the device.

    An adapter's rows for all linears are neighbours, so that one copy brings them, before the next step.
    """

    def __init__(self, slots: int, linears: int, device: torch.device) -> None:
        self._device = device
        self._own = np.zeros((slots, linears, 3), np.int64)
        self._own_scaling = np.zeros((slots, linears), np.float32)
        self._changed: set[int] = set()
        self.there = torch.zeros((slots, linears, 3), dtype=torch.int64, device=device)
        self.scaling = torch.zeros((slots, linears), dtype=torch.float32, device=device)

    def put(self, slot: int, linear: int, pair: LoraPair | None) -> None:
        """Set or clear what a slot holds for a linear. Whoever sets a pair keeps its tensors alive."""
        row = (0, 0, 0) if pair is None else (pair.a.data_ptr(), pair.b.data_ptr(), pair.a.shape[0])
        self._own[slot, linear] = row
        self._own_scaling[slot, linear] = 0.0 if pair is None else pair.scaling
        self._changed.add(slot)

    def divide(self, segments: Sequence[Segment]) -> tuple[Tiles, tuple[Segment, ...]]:
        """Bring what changed to the device. All segments of a step, at least one, are the kernel's."""
        return Tiles.of(segments, self.follow(segments).tolist(), self._device), ()

    def follow(self, segments: Sequence[Segment]) -> NDArray[np.int64]:
        """Bring what changed to the device; return the largest rank of the segments' adapters for each linear."""
        for slot in self._changed:
            self.there[slot].copy_(torch.from_numpy(self._own[slot]))
            self.scaling[slot].copy_(torch.from_numpy(self._own_scaling[slot]))
        self._changed.clear()
        slots = list({segment.slot for segment in segments})
        ranks: NDArray[np.int64] = self._own[slots, :, 2].max(axis=0)
        return ranks


class TritonJob:
    """Adds all segments' products to one linear's output."""

    def __init__(self, table: TritonTable, linear: int) -> None:
        self.calls = 0
        self.table = table
        self.linear = linear
        self._kept: dict[int, LoraPair | None] = {}

    def put(self, slot: int, pair: LoraPair | None) -> None:
        """Set or clear what a slot holds."""
        self._kept[slot] = own = None if pair is None else LoraPair(_aligned(pair.a), _aligned(pair.b), pair.scaling)
        self.table.put(slot, self.linear, own)

    def add(self, x: torch.Tensor, y: torch.Tensor, tiles: Tiles) -> None:
        """Add the products of the segments to `y` (`[rows, out_features]`, contiguous), in place.

        `x` is `[rows, in_features]`.
        """
        TritonGroup([self]).add(x, [y], tiles)


class TritonGroup:
    """Adds all segments' products to the outputs of linears with one input, which are neighbours in the table."""

    def __init__(self, jobs: Sequence[TritonJob]) -> None:
        self._jobs = jobs

    def add(self, x: torch.Tensor, ys: Sequence[torch.Tensor], tiles: Tiles) -> None:
        """Add to each of `ys` (`[rows, out_features]`, contiguous), in place; `x` is `[rows, in_features]`."""
        changed = [job for job in self._jobs if tiles.ranks[job.linear]]
        for job in changed:
            job.calls += 1
        if changed:
            table = changed[0].table
            with torch.cuda.device_of(x):
                add_products(x.contiguous(), ys, tiles, table.there, table.scaling, self._jobs[0].linear)


def deviation(in_features: int, widths: Sequence[int], dtype: torch.dtype, device: torch.device) -> float:
    """Return how far the kernel is from the reference, as a share of the largest number, on random pairs and rows.

    All that the kernel is compiled to for linears of this input and these outputs is run, so that no step waits for it.
    """
    worst = 0.0
    for rank in ranks_at_once(dtype):
        table = TritonTable(1, len(widths), device)
        jobs = [TritonJob(table, index) for index in range(len(widths))]
        a = (torch.randn(rank, in_features) / in_features**0.5).to(device, dtype)
        pairs = [LoraPair(a, torch.randn(rank, width).to(device, dtype), 1.0) for width in widths]
        for job, pair in zip(jobs, pairs, strict=True):
            job.put(0, pair)
        segments = (Segment(0, 1, 0), Segment(1, 2 + MANY, 0))
        x = torch.randn(2 + MANY, in_features).to(device, dtype)
        ours = [torch.zeros(len(x), width, dtype=dtype, device=device) for width in widths]
        TritonGroup(jobs).add(x, ours, table.divide(segments)[0])
        for y, pair in zip(ours, pairs, strict=True):
            theirs = torch.zeros(y.shape, device=device)
            apply_lora(x.float(), theirs, segments, [LoraPair(a.float(), pair.b.float(), 1.0)])
            worst = max(worst, float((y - theirs).abs().max() / theirs.abs().max()))
    return worst


def _aligned(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.clone() if tensor.data_ptr() % ALIGNED else tensor
