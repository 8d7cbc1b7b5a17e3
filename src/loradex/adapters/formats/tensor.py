"""A tensor of an adapter file in numpy, bit for bit: numpy has no bfloat16, so of that the bits are held."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from loradex.adapters.formats.refusal import refuse

MAX_TENSOR_BYTES: Final = 1 << 30
"""What one tensor may take. The A of rank 512 on 65,536 inputs takes 128 MiB in float32."""

HELD: Final[Mapping[str, str]] = {"F16": "<f2", "BF16": "<u2", "F32": "<f4", "F64": "<f8"}
"""How numpy holds each dtype, by its name in safetensors."""

_CHUNK_ROWS_BYTES: Final = 4 << 20


@dataclass(frozen=True, slots=True, eq=False)
class Tensor:
    """Values of a dtype that safetensors names `F16`, `BF16` (held as uint16), `F32` or `F64`."""

    dtype: str
    values: NDArray[Any]

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes, slowest first."""
        return self.values.shape

    @property
    def nbytes(self) -> int:
        """Bytes in a file."""
        return self.values.nbytes

    def transposed(self) -> Tensor:
        """Return a view with rows and columns exchanged."""
        return Tensor(self.dtype, self.values.T)

    def rows(self, index: NDArray[np.intp] | slice) -> Tensor:
        """Return some rows, in the order of `index`."""
        return Tensor(self.dtype, self.values[index])

    def widened(self) -> NDArray[np.float64]:
        """Return the values as float64, which holds every value of every dtype here."""
        if self.dtype == "BF16":
            return (self.values.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
        return self.values.astype(np.float64)

    def scaled(self, factor: float) -> Tensor:
        """Return the product: in the same dtype where every value is exact there, else in F32, rounded once."""
        if factor == 1.0:
            return self
        wide = self.widened() * factor
        same = narrowed(wide, self.dtype)
        return same if np.array_equal(same.widened(), wide) else narrowed(wide, "F32")

    def pieces(self) -> Iterator[bytes]:
        """Yield the bytes as they lie in a file, a few MiB at a time."""
        if not self.values.nbytes:
            return
        step = max(1, _CHUNK_ROWS_BYTES * len(self.values) // self.values.nbytes)
        for start in range(0, len(self.values), step):
            yield np.ascontiguousarray(self.values[start : start + step]).tobytes()


def narrowed(wide: NDArray[np.float64], dtype: str) -> Tensor:
    """Return values in a dtype, each rounded to the nearest (ties to even); what is too large becomes infinite."""
    with np.errstate(over="ignore"):
        if dtype != "BF16":
            return Tensor(dtype, wide.astype(HELD[dtype]))
        bits = wide.astype(np.float32).view(np.uint32)
    # Adding just under half of the last kept bit, and that bit itself, rounds to even.
    return Tensor(dtype, ((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype(np.uint16))


def concatenated(tensors: list[Tensor], axis: int) -> Tensor:
    """Return tensors of one dtype behind one another."""
    return Tensor(tensors[0].dtype, np.concatenate([tensor.values for tensor in tensors], axis=axis))


def file_bytes(path: Path) -> NDArray[np.uint8]:
    """Return the bytes of a file as a read-only map: nothing is read before it is looked at.

    Raises:
        AdapterInvalid: the file is empty.
        OSError: it cannot be opened.
    """
    if not path.stat().st_size:
        refuse(path, "empty_file", "is empty", "Copy or download the file again")
    return np.memmap(path, dtype=np.uint8, mode="r")


def tensor_at(path: Path, data: NDArray[np.uint8], dtype: str, shape: tuple[int, ...], start: int) -> Tensor:
    """Return the tensor whose values lie in `data` from byte `start` on; who calls has checked that they are there.

    Raises:
        AdapterInvalid: it is larger than `MAX_TENSOR_BYTES`.
    """
    kind = np.dtype(HELD[dtype])
    size = kind.itemsize
    for side in shape:
        size *= side
    # A side of 0 hides the size of the others, which numpy holds in 63 bits.
    if size > MAX_TENSOR_BYTES or max(shape, default=0) > MAX_TENSOR_BYTES:
        size = max(size, *shape)
        what = f"holds a tensor of {size} bytes or more, above the limit of {MAX_TENSOR_BYTES >> 30} GiB"
        refuse(path, "too_large", what, "Give the adapter alone, without weights of its base")
    return Tensor(dtype, data[start : start + size].view(kind).reshape(shape))
