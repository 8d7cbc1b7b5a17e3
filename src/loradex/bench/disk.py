"""Files in and out of the page cache, so that a cold load is cold."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path


def evict(files: Iterable[Path]) -> bool:
    """Drop files from the page cache, as far as nobody has them mapped; False where this system cannot."""
    if not hasattr(os, "posix_fadvise"):
        return False
    for path in files:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)  # what is not written yet would stay
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(handle)
    return True


def read_seconds(files: Iterable[Path]) -> float:
    """Return how long it takes to read files from start to end, from wherever they are now."""
    buffer = bytearray(1 << 20)
    began = time.perf_counter()
    for path in files:
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass
    return time.perf_counter() - began
