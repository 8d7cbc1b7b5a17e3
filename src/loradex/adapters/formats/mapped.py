"""A file, or a part of one, as a map that can also be read like a file: what opens archives never copies them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from loradex.adapters.formats.refusal import refuse

MAX_READ: Final = 8 << 20
"""Bytes that one read may ask for: enough for headers and tables, too little to fill a memory with."""


class Mapped(io.RawIOBase):
    """Bytes `data` of the file at `path`, from 0 on. Tensors are taken as slices of `data`, not read."""

    def __init__(self, path: Path, data: NDArray[np.uint8]) -> None:
        self.path = path
        self.data = data
        self._at = 0

    @classmethod
    def whole(cls, path: Path) -> Mapped:
        """Map a file, which must not change from now on.

        Raises:
            AdapterInvalid: it is empty.
            OSError: it cannot be opened.
        """
        if not path.stat().st_size:
            refuse(path, "empty_file", "is empty", "Copy or download the file again")
        return cls(path, np.memmap(path, dtype=np.uint8, mode="r"))

    def part(self, start: int, size: int) -> Mapped:
        """Return bytes from `start` on.

        Raises:
            AdapterInvalid: they lie beyond the end.
        """
        if start < 0 or size < 0 or start + size > len(self.data):
            what = f"is truncated: bytes {start} to {start + size} are beyond its end at {len(self.data)}"
            refuse(self.path, "truncated", what, "Copy or download the file again")
        return Mapped(self.path, self.data[start : start + size])

    def read(self, size: int | None = -1) -> bytes:
        """Return up to `size` bytes, or all that are left.

        Raises:
            ValueError: that would be more than `MAX_READ`.
        """
        left = max(0, len(self.data) - self._at)
        size = left if size is None or size < 0 else min(size, left)
        if size > MAX_READ:
            raise ValueError(f"{size} bytes at once are more than any header has")
        self._at += size
        return self.data[self._at - size : self._at].tobytes()

    def seek(self, offset: int, whence: int = 0) -> int:
        """Move to a place, which may lie beyond the end.

        Raises:
            OSError: it lies before the start.
        """
        at = offset + (0, self._at, len(self.data))[whence]
        if at < 0:
            raise OSError("a place before the start of the file")
        self._at = at
        return at

    def tell(self) -> int:
        """Return the place."""
        return self._at

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True
