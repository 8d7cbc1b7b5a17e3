"""The segments of a step as the LoRA kernel for graphics cards reads them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from loradex.engine.local.lora import Segment

FEW, MANY = 16, 64
"""Rows of a tile: of segments with no more than `FEW` rows, as in decodes, and of all others."""

_ALIGNED = 4
"""What is read by address begins at a multiple of so many numbers: kernels are compiled anew for other addresses."""

Tile = tuple[int, int, int, int, int]


@dataclass(frozen=True, slots=True)
class Tiles:
    """Segments cut into tiles of rows, on the device.

    Attributes:
        few, many: int32 `[tiles, 5]`, None for no tile: first row, end row, first segment, how many segments share the
            rows, and the first of the tile's rows of products, of which each segment has as many as the tile.
        slots, weights: int32 and float32 `[segments]`.
        ranks: for each linear, the largest rank among the adapters of the segments; 0 where none changes it.
        products: rows of products of all tiles.
    """

    few: torch.Tensor | None
    many: torch.Tensor | None
    slots: torch.Tensor
    weights: torch.Tensor
    ranks: Sequence[int]
    products: int = 0

    @classmethod
    def of(cls, segments: Sequence[Segment], ranks: Sequence[int], device: torch.device) -> Tiles:
        """Cut segments and bring the tiles to the device by one copy."""
        few, products = _cut((group for group in _sharing(segments) if group.rows <= FEW), FEW, 0)
        many, products = _cut((group for group in _sharing(segments) if group.rows > FEW), MANY, products)
        slots, weights = slots_and_weights(segments)
        parts = [_padded(part) for part in (few, many, slots, weights)]
        there = torch.from_numpy(np.concatenate(parts)).to(device)
        on_device = there.split_with_sizes([len(part) for part in parts])
        return cls(
            on_device[0][: 5 * len(few)].view(-1, 5) if few else None,
            on_device[1][: 5 * len(many)].view(-1, 5) if many else None,
            on_device[2][: len(segments)],
            on_device[3][: len(segments)].view(torch.float32),
            ranks,
            products,
        )


def few_tiles(segments: Sequence[Segment]) -> tuple[list[Tile], int]:
    """Cut segments of any length into tiles of few rows; return these, and how many rows of products they have."""
    return _cut(_sharing(segments), FEW, 0)


def slots_and_weights(segments: Sequence[Segment]) -> tuple[list[int], NDArray[np.int32]]:
    """Return the slots of segments, and the bits of their weights."""
    weights = np.array([segment.weight for segment in segments], np.float32).view(np.int32)
    return [segment.slot for segment in segments], weights


class _Group(NamedTuple):
    """Segments that share their rows: the first of them, how many they are, the rows' start and end."""

    first: int
    sharers: int
    start: int
    end: int

    @property
    def rows(self) -> int:
        return self.end - self.start


def _sharing(segments: Sequence[Segment]) -> Iterator[_Group]:
    index = 0
    for start, group in groupby(segments, lambda segment: segment.start):
        sharing = list(group)
        yield _Group(index, len(sharing), start, sharing[0].end)
        index += len(sharing)


def _cut(groups: Iterable[_Group], rows: int, products: int) -> tuple[list[Tile], int]:
    """Cut groups into tiles; `products` counts the rows of products before them, and is returned with theirs."""
    tiles = []
    for group in groups:
        for first in range(group.start, group.end, rows):
            end = min(first + rows, group.end)
            tiles.append((first, end, group.first, group.sharers, products))
            products += (end - first) * group.sharers
    return tiles, products


def _padded(values: Sequence[Tile] | Sequence[int] | NDArray[np.int32]) -> NDArray[np.int32]:
    flat = np.array(values, np.int32).reshape(-1)
    return np.pad(flat, (0, -len(flat) % _ALIGNED))
