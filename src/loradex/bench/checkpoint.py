"""Random bf16 weights as safetensors files, written tensor by tensor, so that a large model needs little memory."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

_SIGN_AND_FRACTION: Final = 0x807F
_ONE: Final = 0x3F80
_EXPONENTS: Final = 7
"""Bits of the fraction of a bf16: the exponent stands above them."""


def random_bf16(count: int, random: np.random.Generator, scale: int = -6) -> NDArray[np.uint16]:
    """Return the bits of `count` random bf16 numbers, of both signs, between `2**scale` and twice that.

    Random bits with a fixed exponent: a hundred times faster than drawing floats and rounding them, and as good for
    speed, which does not depend on what the weights say. With the default scale they are about as large as those of
    a freshly initialised model.
    """
    bits = random.integers(0, 1 << 16, count, dtype=np.uint16)
    bits &= np.uint16(_SIGN_AND_FRACTION)
    bits |= np.uint16((127 + scale) << _EXPONENTS)
    return bits


def write_random(path: Path, tensors: Mapping[str, tuple[int, ...]], seed: int, ones: tuple[str, ...] = ()) -> int:
    """Write a safetensors file of random bf16 tensors; return its bytes.

    Args:
        path: of the file.
        tensors: shape by name.
        seed: equal seeds write equal files.
        ones: tensors whose name ends with one of these hold ones instead, as norms do.
    """
    random = np.random.default_rng(seed)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, shape in tensors.items():
        size = 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that the tensors are aligned
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, shape in tensors.items():
            count = math.prod(shape)
            bits = np.full(count, _ONE, np.uint16) if name.endswith(ones) else random_bf16(count, random)
            file.write(bits.data)
    return 8 + len(text) + at
