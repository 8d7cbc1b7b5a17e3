"""Tiles cover every row of every segment once."""

from __future__ import annotations

from itertools import accumulate

import torch
from hypothesis import given
from hypothesis import strategies as st

from loradex.engine.local.lora import Segment
from loradex.engine.local.tiles import FEW, MANY, Tiles

GROUPS = st.lists(st.tuples(st.integers(0, 3), st.integers(1, 200), st.integers(1, 3)), min_size=1, max_size=8)
"""Rows of the base before, rows, and how many adapters share them."""


@given(GROUPS)
def test_every_row_of_every_segment_is_in_one_tile(groups: list[tuple[int, int, int]]) -> None:
    ends = list(accumulate(before + rows for before, rows, _ in groups))
    segments = [
        Segment(end - rows, end, slot, 0.5 * slot)
        for end, (_, rows, sharers) in zip(ends, groups, strict=True)
        for slot in range(sharers)
    ]
    tiles = Tiles.of(segments, [1], torch.device("cpu"))
    assert tiles.slots.tolist() == [segment.slot for segment in segments]
    assert tiles.weights.tolist() == [segment.weight for segment in segments]
    covered, products = [], []
    for height, part in ((FEW, tiles.few), (MANY, tiles.many)):
        for first, end, segment, sharers, place in [] if part is None else part.tolist():
            assert 0 < end - first <= height
            covered += [(row, segment + sharer) for row in range(first, end) for sharer in range(sharers)]
            products += range(place, place + (end - first) * sharers)
    assert sorted(covered) == sorted(
        (row, number) for number, each in enumerate(segments) for row in range(each.start, each.end)
    )
    assert products == list(range(tiles.products))
    begins = [part.data_ptr() % 16 for part in (tiles.few, tiles.many, tiles.slots, tiles.weights) if part is not None]
    assert len(set(begins)) == 1
