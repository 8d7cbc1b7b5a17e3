"""Adapter tensors, from the file as PEFT writes it to what the tables hold."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from loradex.adapters.adapter import Adapter, LoraLayer
from loradex.engine.local.lora import LoraPair
from loradex.errors import AdapterDamaged

Stored = tuple[LoraLayer, torch.Tensor, torch.Tensor]
"""A layer with its tensors as they are stored: `[rank, in_features]` and `[out_features, rank]`, in any dtype."""


@contextmanager
def stored_pairs(adapter: Adapter, device: str = "cpu") -> Iterator[Iterator[Stored]]:
    """Open the weights of an adapter, and give its layers one by one.

    Raises:
        AdapterDamaged: the file is gone, or does not hold what it held when it was checked.
    """
    try:
        file = safe_open(adapter.weights, framework="pt", device=device)
    except (OSError, SafetensorError) as error:
        raise _damaged(adapter, error) from error
    with file:
        yield _stored(file, adapter)


def read_pairs(adapter: Adapter, dtype: torch.dtype, device: torch.device) -> dict[str, LoraPair]:
    """Return the pairs of an adapter by module path, in the engine's dtype.

    Raises:
        AdapterDamaged: see `stored_pairs`.
    """
    with stored_pairs(adapter, str(device)) as pairs:
        return {
            layer.module: LoraPair(a.to(dtype).contiguous(), b.to(dtype).t().contiguous(), layer.scaling)
            for layer, a, b in pairs
        }


def size(pairs: dict[str, LoraPair]) -> int:
    """Return the bytes that the tensors take."""
    return sum(pair.a.nbytes + pair.b.nbytes for pair in pairs.values())


def _stored(file: Any, adapter: Adapter) -> Iterator[Stored]:
    for layer in adapter.layers.values():
        try:
            a, b = file.get_tensor(layer.a), file.get_tensor(layer.b)
        except (OSError, SafetensorError) as error:
            raise _damaged(adapter, error) from error
        yield layer, a, b


def _damaged(adapter: Adapter, error: Exception) -> AdapterDamaged:
    return AdapterDamaged(f"The weights in {adapter.weights} cannot be read: {error}")
