"""A scan for weights that are not numbers: one NaN in an adapter makes every answer on it noise."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from loradex.adapters.header import TensorInfo
from loradex.errors import FilesNotFound

CHUNK_BYTES: Final = 4 << 20

# A float is NaN or infinite exactly when every bit of its exponent is set: no conversion is needed, bf16 included.
_EXPONENT: Final[Mapping[str, tuple[str, int]]] = {
    "F16": ("<u2", 0x7C00),
    "BF16": ("<u2", 0x7F80),
    "F32": ("<u4", 0x7F80_0000),
    "F64": ("<u8", 0x7FF0_0000_0000_0000),
}

DTYPES: Final = frozenset(_EXPONENT)
"""The dtypes of LoRA weights that are served."""


def not_finite(path: Path, tensors: Mapping[str, TensorInfo], names: Iterable[str]) -> dict[str, int]:
    """Return how many values are NaN or infinite in each named tensor that has any; reads a few MiB at a time.

    Tensors of dtypes outside `DTYPES` are passed over.

    Raises:
        FilesNotFound: the file is gone or became shorter.
    """
    bad: dict[str, int] = {}
    try:
        with path.open("rb") as file:
            for name in sorted(names, key=lambda name: tensors[name].start):
                info = tensors[name]
                if info.dtype not in _EXPONENT:
                    continue
                file.seek(info.start)
                left, count = info.end - info.start, 0
                while left:
                    chunk = file.read(min(left, CHUNK_BYTES))
                    if not chunk or len(chunk) < min(left, CHUNK_BYTES):
                        raise FilesNotFound(f"{path} became shorter while it was read")
                    left -= len(chunk)
                    count += _count(chunk, info.dtype)
                if count:
                    bad[name] = count
    except OSError as error:
        raise FilesNotFound(f"{path} cannot be read: {error.strerror or error}") from error
    return bad


def _count(chunk: bytes, dtype: str) -> int:
    import numpy as np  # listing adapters must not wait for it

    kind, mask = _EXPONENT[dtype]
    bits = np.frombuffer(chunk, dtype=np.dtype(kind))
    exponent = bits.dtype.type(mask)
    return int(np.count_nonzero((bits & exponent) == exponent))
