"""Routed experts whose stacked weights adapters change (PEFT's `target_parameters`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.utils.hooks import RemovableHandle

from loradex.engine.local.batch import Step
from loradex.engine.local.lora import LoraPair

Pairs = Mapping[str, LoraPair]
"""By the parameter's name; `a` is `[experts, rank, in]`, `b` is `[experts, rank, out]`."""

Member = tuple[Pairs, float]
"""What an adapter does to the experts, and its weight."""


class Experts:
    """Computes a module of experts again for the rows whose adapters change its weights.

    Experts are no linear function of their weights, so what several adapters do is added within them. The module is
    hooked only while some adapter changes it.
    """

    def __init__(self, module: nn.Module, step: Step) -> None:
        self.module = module
        self._step = step
        self._table: dict[int, Pairs] = {}
        self._hook: RemovableHandle | None = None

    def put(self, slot: int, pairs: Pairs | None) -> None:
        """Set or clear what the adapter in a slot does."""
        if pairs is None:
            self._table.pop(slot, None)
        else:
            self._table[slot] = pairs
        if self._table and self._hook is None:
            self._hook = self.module.register_forward_hook(self._apply)
        elif not self._table and self._hook is not None:
            self._hook.remove()
            self._hook = None

    def _apply(self, module: nn.Module, inputs: tuple[torch.Tensor, ...], y: torch.Tensor) -> torch.Tensor:
        batch = self._step.batch
        for (start, end), sharing in groupby(batch.segments if batch else (), lambda each: (each.start, each.end)):
            members = [(self._table[each.slot], each.weight) for each in sharing if each.slot in self._table]
            if members:
                y[start:end] = routed(module, [each[start:end] for each in inputs], members)
        return y


def routed(module: Any, inputs: Sequence[torch.Tensor], by: Sequence[Member]) -> torch.Tensor:
    """Return `[rows, out]`: each row's experts, times their shares, with what adapters add to their weights.

    `inputs` are the rows `[rows, in]`, and the numbers and the shares of their experts, `[rows, experts a row]`.
    """
    x, chosen, shares = inputs
    y = torch.zeros_like(x)
    for number in sorted(set(chosen.flatten().tolist())):
        rows, place = torch.where(chosen == number)
        hidden = _linear(x[rows], module.gate_up_proj, number, [(pairs.get("gate_up_proj"), w) for pairs, w in by])
        hidden = module._apply_gate(hidden)
        out = _linear(hidden, module.down_proj, number, [(pairs.get("down_proj"), w) for pairs, w in by])
        y.index_add_(0, rows, (out * shares[rows, place, None]).to(y.dtype))
    return y


def _linear(
    x: torch.Tensor, weight: torch.Tensor, number: int, pairs: Sequence[tuple[LoraPair | None, float]]
) -> torch.Tensor:
    y = functional.linear(x, weight[number])
    for pair, share in pairs:
        if pair is not None:
            y.addmm_(torch.mm(x, pair.a[number].t()), pair.b[number], alpha=pair.scaling * share)
    return y


@contextmanager
def proven(model: nn.Module, rows: int) -> Iterator[dict[nn.Module, list[bool]]]:
    """Note of each module of experts, at each call, whether `routed` gives what it gives, and for all rows of a step.

    Only those are asked of which transformers says that they are of the kind that is computed here.
    """
    calls: dict[nn.Module, list[bool]] = {}

    def compare(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        same = len(inputs) == 3 and len(inputs[0]) == rows
        if same:
            off = torch.linalg.vector_norm(routed(module, inputs, ()) - output)
            same = bool(off <= 0.02 * torch.linalg.vector_norm(output))
        calls.setdefault(module, []).append(same)

    hooks = [each.register_forward_hook(compare) for each in model.modules() if _is_usual(each)]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()


def _is_usual(module: nn.Module) -> bool:
    # Older versions of transformers lack some of these marks, and what they stand for.
    strange = ("has_bias", "is_transposed", "has_post_expert_norm")
    return getattr(module, "has_gate", None) is True and not any(getattr(module, name, False) for name in strange)
