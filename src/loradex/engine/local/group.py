"""Linears that the model calls one after another with one input, as q, k and v, or gate and up."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import torch

from loradex.engine.local.batch import Narrow, Step
from loradex.engine.local.change import apply_changes
from loradex.engine.local.lora import apply_lora
from loradex.engine.local.tiles import Tiles

if TYPE_CHECKING:
    from loradex.engine.local.linear import LoraLinear


class Together(Protocol):
    """What a compiled kernel does for several linears at once; see `triton_job`."""

    def add(self, x: torch.Tensor, ys: Sequence[torch.Tensor], taken: Narrow | Tiles) -> None:
        """Add the products of the segments that the kernel takes to each of `ys`, in place."""


class Group:
    """Computes all of its linears when the model calls the first, so that their pairs are one launch.

    The others find their outputs here. An output is handed out once, and for the very tensor that it was made of; a
    model that changes its input between two of the calls is found by the self-check at start.
    """

    def __init__(self, members: Sequence[LoraLinear], job: Together, step: Step) -> None:
        self._members = members
        self._job = job
        self._step = step
        self._input: torch.Tensor | None = None
        self._outputs: dict[LoraLinear, torch.Tensor] = {}

    def output(self, member: LoraLinear, x: torch.Tensor) -> torch.Tensor:
        """Return what a member gives for `x`, `[..., in_features]`."""
        if x is not self._input or member not in self._outputs:
            self._outputs = self._compute(x)
            self._input = x
        y = self._outputs.pop(member)
        if not self._outputs:
            self._input = None
        return y

    def _compute(self, x: torch.Tensor) -> dict[LoraLinear, torch.Tensor]:
        outputs = {member: member.base.forward(x) for member in self._members}
        batch = self._step.batch
        if batch is not None and batch.segments:
            rows, segments = x.reshape(-1, x.shape[-1]), batch.segments
            flat = [y.view(-1, y.shape[-1]) for y in outputs.values()]
            for member, y in zip(self._members, flat, strict=True):
                if member.changes and batch.changes:
                    apply_changes(rows, y, segments, member.changes)
            if batch.taken is not None and all(y.is_contiguous() for y in flat):
                self._job.add(rows, flat, batch.taken)
                segments = batch.left
            for member, y in zip(self._members, flat, strict=True):
                apply_lora(rows, y, segments, member.table)
        return outputs


@contextmanager
def neighbours(linears: Iterable[LoraLinear]) -> Iterator[list[list[LoraLinear]]]:
    """Collect the linears as the model calls them, those together that are called one after another with one input."""
    found: list[list[LoraLinear]] = []
    last: torch.Tensor | None = None

    def note(linear: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        nonlocal last
        if inputs[0] is last:
            found[-1].append(linear)
        else:
            found.append([linear])
            last = inputs[0]

    hooks = [linear.register_forward_hook(note) for linear in linears]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()
