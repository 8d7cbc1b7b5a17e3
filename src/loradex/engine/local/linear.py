"""A linear of the base model that adds what the rows' adapters say."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import nn

from loradex.engine.local.batch import Batch, Narrow, Step
from loradex.engine.local.change import Change, apply_changes
from loradex.engine.local.group import Group
from loradex.engine.local.lora import LoraPair, Table, apply_lora
from loradex.engine.local.packed import Few
from loradex.engine.local.tiles import Tiles


class Job(Protocol):
    """What a compiled kernel does for one linear; see `lora_job` and `triton_job`."""

    def put(self, slot: int, pair: LoraPair | None) -> None:
        """Set or clear what a slot holds."""

    def add(self, x: torch.Tensor, y: torch.Tensor, taken: Narrow | Tiles) -> None:
        """Add the products of the segments that the kernel takes to `y`, in place."""


class AimedJob(Protocol):
    """A job that the kernel of the base's product can run as well; see `lora_job`."""

    def aim(self, x: torch.Tensor, y: torch.Tensor, narrow: Narrow, threads: int) -> int:
        """Make ready what `add` would do, and return its address; 0 if there is nothing to add."""


class Joinable(Protocol):
    """A linear of the base whose kernel goes on with a LoRA job; see `packed`, `panel_linear` and `quantized`."""

    few: Few | None

    def takes(self, x: torch.Tensor) -> bool:
        """Whether it does so for these rows."""


class Joint(NamedTuple):
    """Base and adapters that are computed in one call."""

    base: Joinable
    job: AimedJob


class LoraLinear(nn.Module):
    """Wraps a linear of the base; its own weights stay where they are.

    `table` leads from slot to adapter; `changes` has what adapters do to the base's output before their pairs are
    added, by slot, and is empty in most linears. `seen` collects the row counts of calls while the model is observed:
    only a linear that is called once a step, with all rows, can carry adapters. `job` computes the segments that its
    kernel takes, where there is one; the reference computes the others. A linear with a `group` leaves both to it.
    `joint` are the base and the same job where one call computes both.
    """

    def __init__(self, base: nn.Module, slots: int, step: Step) -> None:
        super().__init__()
        self.base = base
        self.table: Table = [None] * slots
        self.changes: dict[int, Change] = {}
        self.step = step
        self.seen: list[int] | None = None
        self.job: Job | None = None
        self.group: Group | None = None
        self.joint: Joint | None = None

    @property
    def weight(self) -> torch.Tensor:
        """The base weight, for model code that looks at it."""
        return self.base.weight

    @property
    def bias(self) -> torch.Tensor | None:
        """The base bias, for model code that looks at it."""
        return self.base.bias

    def put(self, slot: int, pair: LoraPair | None) -> None:
        """Set or clear what a slot holds."""
        self.table[slot] = pair
        if self.job is not None:
            self.job.put(slot, pair)

    def change(self, slot: int, change: Change | None) -> None:
        """Set or clear what the adapter in a slot does beside its pair."""
        if change is None:
            self.changes.pop(slot, None)
        else:
            self.changes[slot] = change

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the base's output, plus each segment's low-rank product. `x` is `[..., in_features]`."""
        if self.group is not None:
            return self.group.output(self, x)
        batch = self.step.batch
        if batch is not None and (joined := self._joined(x, batch)) is not None:
            return joined
        y = self.base.forward(x)  # not `self.base(x)`: 2 us a call that nothing here needs
        if self.seen is not None:
            self.seen.append(x.numel() // x.shape[-1])
        if batch is not None and batch.segments:
            x, out = x.reshape(-1, x.shape[-1]), y.view(-1, y.shape[-1])
            segments = batch.segments
            if self.changes and batch.changes:
                apply_changes(x, out, segments, self.changes)
            if self.job is not None and batch.taken is not None and out.is_contiguous():
                self.job.add(x, out, batch.taken)
                segments = batch.left
            apply_lora(x, out, segments, self.table)
        return y

    def _joined(self, x: torch.Tensor, batch: Batch) -> torch.Tensor | None:
        """Compute base and adapters in one call, where that can be."""
        taken = batch.taken
        if self.joint is None or (self.changes and batch.changes) or batch.left or not isinstance(taken, Narrow):
            return None
        base, job = self.joint
        if base.few is None or not base.takes(x):
            return None
        return base.few.product(x, lambda inputs, outputs, threads: job.aim(inputs, outputs, taken, threads))
