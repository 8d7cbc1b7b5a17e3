"""Adapter tensors, from the file as PEFT writes it to what the tables hold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from loradex.adapters.adapter import Adapter, Extra, LoraLayer, Role
from loradex.engine.local.lora import LoraPair
from loradex.errors import AdapterDamaged

Tensors = Mapping[Role, torch.Tensor]
"""What an adapter brings to one module beside a pair."""


@dataclass(frozen=True, slots=True)
class Contents:
    """The tensors of an adapter by module path, in the engine's dtype, before they have met the base."""

    pairs: Mapping[str, LoraPair]
    extras: Mapping[str, Tensors] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """The bytes that the tensors take."""
        extras = sum(tensor.nbytes for own in self.extras.values() for tensor in own.values())
        return extras + sum(pair.a.nbytes + pair.b.nbytes for pair in self.pairs.values())


class WeightsFile:
    """The open weights file of an adapter: its tensors as they are stored, in any dtype."""

    def __init__(self, file: Any, adapter: Adapter) -> None:
        self._file = file
        self._adapter = adapter

    def pairs(self) -> Iterator[tuple[LoraLayer, torch.Tensor, torch.Tensor]]:
        """Give the pairs one by one, as views that are laid as in a `LoraPair`.

        Raises:
            AdapterDamaged: the file does not hold what it held when it was checked.
        """
        for layer in self._adapter.layers.values():
            yield layer, *_laid(layer, self._tensor(layer.a), self._tensor(layer.b))

    def extras(self) -> Iterator[tuple[Extra, torch.Tensor]]:
        """Give what lies beside them, likewise."""
        for extra in self._adapter.extras:
            yield extra, self._tensor(extra.tensor)

    def _tensor(self, name: str) -> torch.Tensor:
        try:
            tensor: torch.Tensor = self._file.get_tensor(name)
        except (OSError, SafetensorError) as error:
            raise _damaged(self._adapter, error) from error
        return tensor


@contextmanager
def open_weights(adapter: Adapter, device: str = "cpu") -> Iterator[WeightsFile]:
    """Open the weights of an adapter.

    Raises:
        AdapterDamaged: the file is gone, or is not safetensors any more.
    """
    try:
        file = safe_open(adapter.weights, framework="pt", device=device)
    except (OSError, SafetensorError) as error:
        raise _damaged(adapter, error) from error
    with file:
        yield WeightsFile(file, adapter)


def read_contents(adapter: Adapter, dtype: torch.dtype, device: torch.device) -> Contents:
    """Return the tensors of an adapter, in the engine's dtype.

    Raises:
        AdapterDamaged: see `WeightsFile`.
    """
    with open_weights(adapter, str(device)) as file:
        pairs = {
            layer.module: LoraPair(a.to(dtype).contiguous(), b.to(dtype).contiguous(), layer.scaling)
            for layer, a, b in file.pairs()
        }
        return Contents(pairs, by_module((each.module, each.role, tensor.to(dtype)) for each, tensor in file.extras()))


def _laid(layer: LoraLayer, a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return views of a stored pair with both halves by rank, or by expert and rank."""
    if not layer.experts:
        return a, b.t()
    a = a.view(layer.experts, layer.rank, layer.in_features)
    return a, b.view(layer.out_features, layer.rank, layer.experts).permute(2, 1, 0)


def by_module(extras: Iterator[tuple[str, Role, torch.Tensor]]) -> dict[str, Tensors]:
    """Return tensors beside pairs by module and role."""
    found: dict[str, dict[Role, torch.Tensor]] = {}
    for module, role, tensor in extras:
        found.setdefault(module, {})[role] = tensor
    return dict(found)


def _damaged(adapter: Adapter, error: Exception) -> AdapterDamaged:
    return AdapterDamaged(f"The weights in {adapter.weights} cannot be read: {error}")
