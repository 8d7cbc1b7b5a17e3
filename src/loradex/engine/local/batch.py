"""What the layers need to know of the step in progress."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby

import numpy as np
import torch

from loradex.engine.local.lora import Segment
from loradex.engine.local.tiles import Tiles


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of one sequence that has more than one in this step: a chunk of its prompt.

    `begin` up to `end` are its rows, `position` the place of the first in its sequence, `cells` (`[position + rows]`)
    where the cache keeps every token up to the last.
    """

    begin: int
    end: int
    position: int
    cells: torch.Tensor


@dataclass(frozen=True, slots=True)
class Decodes:
    """All sequences with one row in this step, side by side.

    `rows` (`[sequences]`) are their rows. `cells` (`[sequences, longest]`) is where the cache keeps their tokens; the
    rest repeats a sequence's own first cell, for a masked NaN of somebody else would still spoil the sum. `position`
    (`[sequences, 1]`) is the place of the row in its sequence, None where all are equal. `lengths` (`[sequences]`) say
    how many of the cells are the sequence's own.
    """

    rows: torch.Tensor
    cells: torch.Tensor
    position: torch.Tensor | None
    lengths: torch.Tensor

    def mask(self, window: int | None) -> torch.Tensor | None:
        """Return `[sequences, longest]`, True where a row may look; None where it may look everywhere."""
        longest = self.cells.shape[1]
        if self.position is None:
            return None if window is None or window >= longest else self._column() > longest - 1 - window
        seen = self._column() <= self.position
        return seen if window is None else seen & (self._column() > self.position - window)

    def _column(self) -> torch.Tensor:
        return torch.arange(self.cells.shape[1], device=self.cells.device).unsqueeze(0)


@dataclass(frozen=True, slots=True)
class Paged:
    """The same as the attention kernel of graphics cards reads it, which gathers nothing.

    `rows` are those of the sequences, None for all rows of the step. `tables` (int32 `[sequences, blocks]`) are their
    blocks of `block` cells, in order, and `lengths` (int32 `[sequences]`) their tokens, this step's included.
    """

    rows: torch.Tensor | None
    tables: torch.Tensor
    lengths: torch.Tensor
    block: int


class Narrow:
    """Segments of few rows, as the LoRA kernel of CPUs reads them: int64 `[count, 6]`, see `SEGMENT` in `lora_numba`.

    `rows` are those of all segments; a row counts once for each of its adapters.
    """

    def __init__(self, segments: Sequence[Segment]) -> None:
        before = [0, *accumulate(segment.end - segment.start for segment in segments)]
        self.count = len(segments)
        self.rows = before.pop()
        weights = np.array([segment.weight for segment in segments], np.float64).view(np.int64)
        rows = zip(segments, before, _sharers(segments), weights, strict=True)
        self._segments = np.array([(s.start, s.end, s.slot, *rest) for s, *rest in rows], np.int64)
        self.address: int = self._segments.ctypes.data


def _sharers(segments: Sequence[Segment]) -> Iterator[int]:
    """Yield, for the first of the segments that share their rows, how many they are, and 0 for the others."""
    for _, sharing in groupby(segments, lambda segment: segment.start):
        count = len(list(sharing))
        yield count
        yield from [0] * (count - 1)


Divide = Callable[[Sequence[Segment]], tuple[Narrow | Tiles | None, tuple[Segment, ...]]]
"""Divides a step's segments into those that a LoRA kernel takes, as it reads them, and those that it leaves."""


@dataclass(frozen=True, slots=True)
class Batch:
    """One step: prompts and decodes, rows by mix, `cells` (`[rows]`) where this step's keys and values go.

    `taken` are the segments that the LoRA kernel computes where a linear has it, as it reads them, and `left` those
    that it leaves to the reference. Without kernel, or segments for it, `taken` is None. `heads` are the segments of
    the rows that go on to the output head, where some adapter changes it. `changes` says whether the
    adapter of some row does more than to add pairs to linears. `tokens` (`[rows]`) are the token ids where some are
    beyond the base's vocabulary, which is then given others.
    """

    prompts: tuple[Rows, ...]
    decodes: Decodes | Paged | None
    segments: tuple[Segment, ...]
    cells: torch.Tensor
    taken: Narrow | Tiles | None = None
    left: tuple[Segment, ...] = ()
    heads: tuple[Segment, ...] = ()
    changes: bool = False
    tokens: torch.Tensor | None = None


class Step:
    """Where the layers of one model find the batch in progress; the runner sets it before each forward pass."""

    def __init__(self) -> None:
        self.batch: Batch | None = None
