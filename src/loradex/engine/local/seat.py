"""A module of the base whose output adapters may change: embedding, norms, output head."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from loradex.engine.local.batch import Step
from loradex.engine.local.change import Change, apply_changes


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

    def _apply(self, module: nn.Module, inputs: tuple[torch.Tensor, ...], y: torch.Tensor) -> Any:
        batch = self._step.batch
        segments = () if batch is None or not batch.changes else batch.heads if self.head else batch.segments
        if segments:
            apply_changes(inputs[0][0], y[0], segments, self._table)  # all rows of a step are in a batch of one
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
