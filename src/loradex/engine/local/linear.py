"""A linear of the base model that adds what the rows' adapters say."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import nn

from loradex.engine.local.batch import Narrow, Step
from loradex.engine.local.lora import LoraPair, Table, apply_lora


class Group(Protocol):
    """Computes the linears that get one input together; see `lora_group`."""

    def put(self, member: int, slot: int, pair: LoraPair | None) -> None:
        """Set or clear what a slot holds for a member."""

    def output(self, member: int, x: torch.Tensor, narrow: Narrow) -> torch.Tensor:
        """Return a member's output with the products of the narrow segments added."""


class LoraLinear(nn.Module):
    """Wraps a linear of the base; its own weights stay where they are.

    `table` leads from slot to adapter. `seen` collects the inputs of calls, and how often each had been written to,
    while the model is observed: only a linear that is called once a step, with all rows, can carry adapters. `group`
    is the fast path for narrow segments and this linear's number in it, None where there is none.
    """

    def __init__(self, base: nn.Module, slots: int, step: Step) -> None:
        super().__init__()
        self.base = base
        self.table: Table = [None] * slots
        self.step = step
        self.seen: list[tuple[torch.Tensor, int]] | None = None
        self.group: tuple[Group, int] | None = None

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
        if self.group is not None:
            group, member = self.group
            group.put(member, slot, pair)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the base's output, plus each segment's low-rank product. `x` is `[..., in_features]`."""
        if self.seen is not None:
            self.seen.append((x, x._version))
        batch = self.step.batch
        if batch is None:
            return self.base(x)
        if self.group is None or batch.narrow is None:
            y, segments = self.base(x), batch.segments
        else:
            group, member = self.group
            y, segments = group.output(member, x, batch.narrow), batch.wide
        if segments:
            apply_lora(x.reshape(-1, x.shape[-1]), y.view(-1, y.shape[-1]), segments, self.table)
        return y
