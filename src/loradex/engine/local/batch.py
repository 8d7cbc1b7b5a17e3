"""What the layers need to know of the step in progress."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import torch

from loradex.engine.local.lora import Segment


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
    (`[sequences, 1]`) is the place of the row in its sequence, None where all are equal.
    """

    rows: torch.Tensor
    cells: torch.Tensor
    position: torch.Tensor | None

    def mask(self, window: int | None) -> torch.Tensor | None:
        """Return `[sequences, longest]`, True where a row may look; None where it may look everywhere."""
        longest = self.cells.shape[1]
        if self.position is None:
            return None if window is None or window >= longest else self._column() > longest - 1 - window
        seen = self._column() <= self.position
        return seen if window is None else seen & (self._column() > self.position - window)

    def _column(self) -> torch.Tensor:
        return torch.arange(self.cells.shape[1], device=self.cells.device).unsqueeze(0)


class Narrow:
    """Segments of few rows, as the LoRA kernel reads them: int64 `[count, 4]`, see `SEGMENT` in `lora_numba`."""

    def __init__(self, segments: Sequence[Segment]) -> None:
        before = [0, *accumulate(segment.end - segment.start for segment in segments)]
        self.count = len(segments)
        self.rows = before.pop()
        self._segments = np.array(
            [(s.start, s.end, s.slot, n) for s, n in zip(segments, before, strict=True)], np.int64
        )
        self.address: int = self._segments.ctypes.data


@dataclass(frozen=True, slots=True)
class Batch:
    """One step: prompts and decodes, rows by adapter, `cells` (`[rows]`) where this step's keys and values go.

    `narrow` are the segments that the LoRA kernel takes where a linear has it, `wide` those that it leaves to the
    reference. Without kernel or narrow segments `narrow` is None.
    """

    prompts: tuple[Rows, ...]
    decodes: Decodes | None
    segments: tuple[Segment, ...]
    cells: torch.Tensor
    narrow: Narrow | None = None
    wide: tuple[Segment, ...] = ()


class Step:
    """Where the layers of one model find the batch in progress; the runner sets it before each forward pass."""

    def __init__(self) -> None:
        self.batch: Batch | None = None
