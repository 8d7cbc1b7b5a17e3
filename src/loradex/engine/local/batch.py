"""What the layers need to know of the step in progress."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from loradex.engine.local.lora import Segment


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of one sequence in the batch.

    `begin` up to `end` are its rows, `position` the place of the first in its sequence, `cells` (`[position + rows]`)
    where the cache keeps every token up to the last.
    """

    begin: int
    end: int
    position: int
    cells: torch.Tensor


@dataclass(frozen=True, slots=True)
class Batch:
    """One step: `rows` by sequence, `segments` by adapter, `cells` (`[rows]`) where this step's keys and values go."""

    rows: tuple[Rows, ...]
    segments: tuple[Segment, ...]
    cells: torch.Tensor


class Step:
    """Where the layers of one model find the batch in progress; the runner sets it before each forward pass."""

    def __init__(self) -> None:
        self.batch: Batch | None = None
