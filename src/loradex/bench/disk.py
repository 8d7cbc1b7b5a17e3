"""Files in and out of the page cache, so that a cold load is cold."""

from __future__ import annotations

import os
import time
from pathlib import Path


def evict(folder: Path) -> bool:
    """Drop the files of a folder from the page cache; False where this system cannot."""
    if not hasattr(os, "posix_fadvise"):
        return False
    for path in folder.rglob("*"):
        if path.is_file():
            handle = os.open(path, os.O_RDONLY)
            try:
                os.fsync(handle)  # what is not written yet would stay
                os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(handle)
    return True


def read_seconds(path: Path) -> float:
    """Return how long it takes to read a file from start to end, from wherever it is now."""
    buffer = bytearray(1 << 20)
    began = time.perf_counter()
    with path.open("rb", buffering=0) as file:
        while file.readinto(buffer):
            pass
    return time.perf_counter() - began
