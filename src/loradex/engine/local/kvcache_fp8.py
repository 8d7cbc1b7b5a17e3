"""Keys and values in 8-bit floats (e4m3): half the memory of bfloat16, and half of what attention reads."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch

from loradex.engine.local.kvcache import CacheShape, KVCache, gather

FP8 = torch.float8_e4m3fn
LARGEST = torch.finfo(FP8).max

_ROOM = 8
"""How far above what the probe saw values may go before they are cut off."""

Read = Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor]
"""Pool `[cells, heads, dim]` of codes, cells of any shape and scale to values `[*cells, heads, dim]`."""


class Fp8Cache(KVCache):
    """A cache that rounds what is written to e4m3 (three bits of mantissa) and gives it back in `dtype`.

    A layer has one scale for keys and one for values, a power of two, so that it rounds nothing by itself: 1, unless
    the probe at start saw values that come near the largest of the format, 448, as keys with large biases do. What is
    beyond is cut off there.
    """

    def __init__(self, shapes: Mapping[int, CacheShape], cells: int, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__(shapes, cells, torch.uint8, device)  # indexing knows bytes on every device
        self._scales = {layer: (_scale(shape.key_peak), _scale(shape.value_peak)) for layer, shape in shapes.items()}
        self.dtype = dtype
        self.decode: Read = self._decode

    def sizes(self) -> set[int]:
        """Return how many values the cells of the layers hold, of keys or of values."""
        return {pool[0].numel() for pool in (*self._keys.values(), *self._values.values())}

    def pools(self, layer: int) -> tuple[torch.Tensor, torch.Tensor, tuple[float, float]]:
        """Return all keys and all values of a layer as codes, uint8 `[cells, heads, dim]`, and their scales."""
        return self._keys[layer], self._values[layer], self._scales[layer]

    def write(self, layer: int, cells: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Store `keys` and `values` (`[rows, heads, dim]`) in `cells` (`[rows]`)."""
        for_keys, for_values = self._scales[layer]
        super().write(layer, cells, encode(keys, for_keys), encode(values, for_values))

    def read(self, layer: int, cells: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return keys and values of `cells` (`[sequences, context]`), each `[sequences, heads, context, dim]`."""
        for_keys, for_values = self._scales[layer]
        keys = self.decode(self._keys[layer], cells, for_keys)
        return keys.transpose(1, 2), self.decode(self._values[layer], cells, for_values).transpose(1, 2)

    def _decode(self, pool: torch.Tensor, cells: torch.Tensor, scale: float) -> torch.Tensor:
        found = gather(pool, cells).view(FP8).to(self.dtype)
        return found if scale == 1 else found * scale


def encode(values: torch.Tensor, scale: float) -> torch.Tensor:
    """Return the bytes of the e4m3 nearest to `values / scale`; NaN stays NaN."""
    scaled = values if scale == 1 else values / scale
    return scaled.clamp(-LARGEST, LARGEST).to(FP8).view(torch.uint8)


def _scale(peak: float) -> float:
    return 2.0 ** max(0, math.ceil(math.log2(_ROOM * peak / LARGEST))) if peak > 0 and math.isfinite(peak) else 1.0
