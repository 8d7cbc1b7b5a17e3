"""The LoRA kernel of graphics cards for a model's linears: one table of all adapters, and a job for each linear."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

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
        for slot in self._changed:
            self.there[slot].copy_(torch.from_numpy(self._own[slot]))
            self.scaling[slot].copy_(torch.from_numpy(self._own_scaling[slot]))
        self._changed.clear()
        slots = list({segment.slot for segment in segments})
        ranks = self._own[slots, :, 2].max(axis=0)
        return Tiles(segments, ranks.tolist(), self._device), ()


class TritonJob:
    """Adds all segments' products to one linear's output."""

    def __init__(self, table: TritonTable, linear: int) -> None:
        self.calls = 0
        self._table = table
        self._linear = linear
        self._kept: dict[int, LoraPair | None] = {}

    def put(self, slot: int, pair: LoraPair | None) -> None:
        """Set or clear what a slot holds."""
        self._kept[slot] = own = None if pair is None else LoraPair(_aligned(pair.a), _aligned(pair.b), pair.scaling)
        self._table.put(slot, self._linear, own)

    def add(self, x: torch.Tensor, y: torch.Tensor, tiles: Tiles) -> None:
        """Add the products of the segments to `y` (`[rows, out_features]`, contiguous), in place.

        `x` is `[rows, in_features]`.
        """
        if tiles.ranks[self._linear]:
            self.calls += 1
            with torch.cuda.device_of(x):
                add_products(x.contiguous(), y, tiles, self._table.there, self._table.scaling, self._linear)


def deviation(in_features: int, out_features: int, dtype: torch.dtype, device: torch.device) -> float:
    """Return how far the kernel is from the reference, as a share of the largest number, on random pairs and rows.

    All that the kernel is compiled to for linears of this shape is run, so that no step waits for it.
    """
    worst = 0.0
    for rank in ranks_at_once(dtype):
        a, b = torch.randn(rank, in_features) / in_features**0.5, torch.randn(rank, out_features)
        pair = LoraPair(a.to(device, dtype), b.to(device, dtype), 1.0)
        job = TritonJob(table := TritonTable(1, 1, device), 0)
        job.put(0, pair)
        segments = (Segment(0, 1, 0), Segment(1, 2 + MANY, 0))
        x = torch.randn(2 + MANY, in_features).to(device, dtype)
        ours = torch.zeros(len(x), out_features, dtype=dtype, device=device)
        theirs = torch.zeros(len(x), out_features, device=device)
        job.add(x, ours, table.divide(segments)[0])
        apply_lora(x.float(), theirs, segments, [LoraPair(pair.a.float(), pair.b.float(), 1.0)])
        worst = max(worst, float((ours - theirs).abs().max() / theirs.abs().max()))
    return worst


def _aligned(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.clone() if tensor.data_ptr() % ALIGNED else tensor
