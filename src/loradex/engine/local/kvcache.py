"""Keys and values of all sequences, in blocks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class CacheShape:
    """Of one layer: key/value heads, sizes of a head's key and value, the largest seen of each, and query heads."""

    heads: int
    key_dim: int
    value_dim: int
    key_peak: float = 0.0
    value_peak: float = 0.0
    query_heads: int = 1

    def bytes_per_token(self, dtype: torch.dtype) -> int:
        """Bytes that a token takes in this layer."""
        return self.heads * (self.key_dim + self.value_dim) * dtype.itemsize


class KVCache:
    """One pool of cells for each layer; cell `block * block_size + offset` holds one token's keys and values.

    Layers are known by their index, and may differ in shape.
    """

    def __init__(self, shapes: Mapping[int, CacheShape], cells: int, dtype: torch.dtype, device: torch.device) -> None:
        self._keys: dict[int, torch.Tensor] = {}
        self._values: dict[int, torch.Tensor] = {}
        for layer, shape in shapes.items():
            # Uninitialised on purpose: a cell is always written before it is read, and untouched pages cost nothing.
            self._keys[layer] = torch.empty(cells, shape.heads, shape.key_dim, dtype=dtype, device=device)
            self._values[layer] = torch.empty(cells, shape.heads, shape.value_dim, dtype=dtype, device=device)

    def write(self, layer: int, cells: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Store `keys` and `values` (`[rows, heads, dim]`) in `cells` (`[rows]`)."""
        self._keys[layer].index_copy_(0, cells, keys)
        self._values[layer].index_copy_(0, cells, values)

    def pools(self, layer: int) -> tuple[torch.Tensor, torch.Tensor, tuple[float, float]]:
        """Return all keys and all values of a layer, `[cells, heads, dim]`, and the scales of what they hold."""
        return self._keys[layer], self._values[layer], (1.0, 1.0)

    def read(self, layer: int, cells: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return keys and values of `cells` (`[sequences, context]`), each `[sequences, heads, context, dim]`."""
        return gather(self._keys[layer], cells).transpose(1, 2), gather(self._values[layer], cells).transpose(1, 2)


def gather(pool: torch.Tensor, cells: torch.Tensor) -> torch.Tensor:
    """Return `[*cells, heads, dim]` from a pool `[all cells, heads, dim]`."""
    return pool.index_select(0, cells.flatten()).view(*cells.shape, *pool.shape[1:])
