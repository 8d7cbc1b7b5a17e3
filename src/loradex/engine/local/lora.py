"""The batched LoRA operation: many adapters, one input.

This is the reference, in plain torch, and the path for segments of many rows, where two matrix products are best. Its
interface is the one that `lora_numba` implements for few rows: rows sorted by mix, described by segments; a table
that leads from a slot to the adapter's own tensors, so that switching an adapter is one integer and nothing is copied
or padded to a common rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Segment:
    """Rows from `start` up to `end`, on which the adapter in `slot` has this weight.

    Rows outside every segment are the base's. Rows with several adapters are in as many segments, which follow one
    another and have the same start and end.
    """

    start: int
    end: int
    slot: int
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class LoraPair:
    """The low-rank pair of one linear: `a` is `[rank, in_features]`, `b` is `[rank, out_features]`, both contiguous.

    Files hold B the other way round; like this, few rows read both from front to back. Pairs on stacked experts have
    one dimension more, the expert, in front.
    """

    a: torch.Tensor
    b: torch.Tensor
    scaling: float


Table = list[LoraPair | None]
"""By slot; None where the slot is empty or its adapter leaves this linear alone."""


def apply_lora(x: torch.Tensor, y: torch.Tensor, segments: Sequence[Segment], table: Table) -> None:
    """Add `weight * scaling * (x a^T) b` to the rows of each segment of `y`, in place.

    `x` is `[rows, in_features]`, `y` is `[rows, out_features]`, both in the dtype of the pairs.
    """
    for segment in segments:
        pair = table[segment.slot]
        if pair is not None:
            shrunk = torch.mm(x[segment.start : segment.end], pair.a.t())
            y[segment.start : segment.end].addmm_(shrunk, pair.b, alpha=pair.scaling * segment.weight)
