"""Adapter tensors, from file to what the tables hold."""

from __future__ import annotations

import torch
from safetensors import SafetensorError, safe_open

from loradex.adapters.adapter import Adapter
from loradex.engine.local.lora import LoraPair
from loradex.errors import AdapterDamaged


def read_pairs(adapter: Adapter, dtype: torch.dtype, device: torch.device) -> dict[str, LoraPair]:
    """Return the pairs of an adapter by module path, in the engine's dtype.

    Raises:
        AdapterDamaged: the file is gone, or does not hold what it held when it was checked.
    """
    try:
        with safe_open(adapter.weights, framework="pt", device=str(device)) as file:
            return {
                layer.module: LoraPair(
                    file.get_tensor(layer.a).to(dtype).contiguous(),
                    file.get_tensor(layer.b).to(dtype).contiguous(),
                    layer.scaling,
                )
                for layer in adapter.layers.values()
            }
    except (OSError, SafetensorError) as error:
        raise AdapterDamaged(f"The weights in {adapter.weights} cannot be read: {error}") from error


def size(pairs: dict[str, LoraPair]) -> int:
    """Return the bytes that the tensors take."""
    return sum(pair.a.nbytes + pair.b.nbytes for pair in pairs.values())
