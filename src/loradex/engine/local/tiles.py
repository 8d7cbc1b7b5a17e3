"""The segments of a step as the LoRA kernel for graphics cards reads them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import numpy as np
import torch
from numpy.typing import NDArray

from loradex.engine.local.lora import Segment

FEW, MANY = 16, 64
"""Rows of a tile: of segments with no more than `FEW` rows, as in decodes, and of all others."""

_ALIGNED = 4
"""What is read by address begins at a multiple of so many numbers: kernels are compiled anew for other addresses."""

Tile = tuple[int, int, int, int, int]


class Tiles:
    """Segments cut into tiles of rows, brought to the device by one copy.

    Attributes:
        few, many: int32 `[tiles, 5]`, None for no tile: first row, end row, first segment, how many segments share the
            rows, and the first of the tile's rows of products, of which each segment has `MANY` (0 in `few`).
        slots, weights: int32 and float32 `[segments]`.
        sharers: the most segments that share the rows of one tile of `many`.
        products: rows of products of all tiles.
        ranks: for each linear, the largest rank among the adapters of the segments; 0 where none changes it.
    """

    def __init__(self, segments: Sequence[Segment], ranks: list[int], device: torch.device) -> None:
        self.ranks = ranks
        few: list[Tile] = []
        many: list[Tile] = []
        self.sharers = self.products = index = 0
        for start, group in groupby(segments, lambda segment: segment.start):
            sharing = list(group)
            end, count = sharing[0].end, len(sharing)
            if end - start <= FEW:
                few.append((start, end, index, count, 0))
            else:
                for first in range(start, end, MANY):
                    many.append((first, min(first + MANY, end), index, count, self.products))
                    self.products += MANY * count
                self.sharers = max(self.sharers, count)
            index += count
        slots = [segment.slot for segment in segments]
        weights = np.array([segment.weight for segment in segments], np.float32).view(np.int32)
        parts = [_padded(part) for part in (few, many, slots, weights)]
        there = torch.from_numpy(np.concatenate(parts)).to(device)
        on_device = there.split_with_sizes([len(part) for part in parts])
        self.few = on_device[0][: 5 * len(few)].view(-1, 5) if few else None
        self.many = on_device[1][: 5 * len(many)].view(-1, 5) if many else None
        self.slots = on_device[2][: len(segments)]
        self.weights = on_device[3][: len(segments)].view(torch.float32)


def _padded(values: Sequence[Tile] | Sequence[int] | NDArray[np.int32]) -> NDArray[np.int32]:
    flat = np.array(values, np.int32).reshape(-1)
    return np.pad(flat, (0, -len(flat) % _ALIGNED))
