"""A scan for weights that are not numbers: one NaN in an adapter makes every answer on it noise."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from loradex.adapters.header import TensorInfo
from loradex.errors import FilesNotFound

CHUNK_BYTES: Final = 4 << 20

# Without their sign, the bits of floats are ordered as the floats are, then come infinity and the NaNs: no conversion
# is needed, bf16 included. Of each dtype, the first bits that are no number; for F64, those that float32 rounds away.
_FIRST_BAD: Final[Mapping[str, tuple[str, int]]] = {
    "F16": ("<u2", 0x7C00),
    "BF16": ("<u2", 0x7F80),
    "F32": ("<u4", 0x7F80_0000),
    "F64": ("<u8", 0x47EF_FFFF_F000_0000),
}

DTYPES: Final = frozenset(_FIRST_BAD)
"""The dtypes of LoRA weights that are served."""


def not_finite(path: Path, tensors: Mapping[str, TensorInfo], names: Iterable[str]) -> dict[str, int]:
    """Return how many values are NaN or infinite, at least as float32, in each named tensor that has any.

    Reads a few MiB at a time. Tensors of dtypes outside `DTYPES` are passed over.

    Raises:
        FilesNotFound: the file is gone or became shorter.
    """
    bad: dict[str, int] = {}
    try:
        with path.open("rb") as file:
            for name in sorted(names, key=lambda name: tensors[name].start):
                info = tensors[name]
                if info.dtype not in _FIRST_BAD:
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

    kind, first = _FIRST_BAD[dtype]
    bits = np.frombuffer(chunk, dtype=np.dtype(kind))
    unsigned = bits.dtype.type((1 << (8 * bits.itemsize - 1)) - 1)
    return int(np.count_nonzero((bits & unsigned) >= bits.dtype.type(first)))
