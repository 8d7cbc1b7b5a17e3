"""A module of the base whose output adapters may change: embedding, norms, output head."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.utils.hooks import RemovableHandle

from loradex.engine.local.batch import Step
from loradex.engine.local.change import Change, apply_changes
from loradex.engine.local.lora import Segment


class Seat:
    """Changes what a module returns, by the rows' adapters.

    The module is hooked only while some adapter changes it: for all others it is as if this were not here. A module
    that is called with the rows that are sampled, instead of all, is a `head`.
    """

    def __init__(self, module: nn.Module, step: Step, *, head: bool) -> None:
        self.module = module
        self._step = step
        self.head = head
        self._table: dict[int, Change] = {}
        self._hook: RemovableHandle | None = None
        self._widths: dict[int, int] = {}

    @property
    def busy(self) -> bool:
        """Whether some adapter changes it."""
        return self._hook is not None

    def change(self, slot: int, change: Change | None) -> None:
        """Set or clear what the adapter in a slot does."""
        if change is None:
            self._table.pop(slot, None)
        else:
            self._table[slot] = change
        if self._table and self._hook is None:
            self._hook = self.module.register_forward_hook(self._apply)
        elif not self._table and self._hook is not None:
            self._hook.remove()
            self._hook = None

    def widen(self, slot: int, width: int | None) -> None:
        """Set or clear how many outputs a head has under the adapter in a slot."""
        if width is None:
            self._widths.pop(slot, None)
        else:
            self._widths[slot] = width

    def _apply(self, module: nn.Module, inputs: tuple[torch.Tensor, ...], y: torch.Tensor) -> Any:
        batch = self._step.batch
        if batch is None or not batch.changes:
            return y
        x, segments = inputs[0][0], batch.heads if self.head else batch.segments  # all rows are in a batch of one
        if batch.tokens is not None and not x.is_floating_point():
            x = batch.tokens
        if any(segment.slot in self._widths for segment in segments):
            return self._apply_widely(x, y, segments)
        apply_changes(x, y[0], segments, self._table)
        return y

    def _apply_widely(self, x: torch.Tensor, y: torch.Tensor, segments: Sequence[Segment]) -> torch.Tensor:
        """Give each row as many outputs as its adapter has; what lies beyond them means nothing."""
        width = y.shape[-1]
        own = [segment for segment in segments if segment.slot in self._widths]
        y = functional.pad(y, (0, max(0, *(self._widths[segment.slot] - width for segment in own))))
        apply_changes(x, y[0, :, :width], [segment for segment in segments if segment not in own], self._table)
        for segment in own:
            apply_changes(x, y[0, :, : self._widths[segment.slot]], [segment], self._table)
        return y


@contextmanager
def watched(model: nn.Module, rows: int) -> Iterator[dict[nn.Module, list[bool]]]:
    """Note of each module with weights of its own, at each call, whether it takes and gives all rows of a step.

    That is what a `Seat` can change. Linears within a `LoraLinear` are called past this, and are not among them.
    """
    calls: dict[nn.Module, list[bool]] = {}

    def note(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        tensors = (*inputs[:1], output)
        whole = all(isinstance(each, torch.Tensor) and each.shape[:2] == (1, rows) for each in tensors)
        calls.setdefault(module, []).append(whole and bool(inputs))

    hooks = [each.register_forward_hook(note) for each in model.modules() if hasattr(each, "weight")]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()
