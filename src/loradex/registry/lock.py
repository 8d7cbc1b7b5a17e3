"""A lock between processes, on a file that stays."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from loradex.errors import RegistryFailed

RETRY_SECONDS = 0.02


@contextmanager
def file_lock(path: Path, seconds: float) -> Iterator[None]:
    """Hold the lock on `path`; the system frees it when the process ends, however that comes about.

    Raises:
        RegistryFailed: another process held it for all these seconds.
        OSError: the file cannot be opened.
    """
    deadline = time.monotonic() + seconds
    with path.open("a+b") as file:
        while not _try_lock(file):
            if time.monotonic() >= deadline:
                raise RegistryFailed(
                    f"{path} has been held by another process for {seconds:g} seconds",
                    hint="End the other `loradex` process, or wait for it",
                )
            time.sleep(RETRY_SECONDS)
        try:
            yield
        finally:
            _unlock(file)


if sys.platform == "win32":
    import msvcrt

    def _try_lock(file: IO[bytes]) -> bool:
        file.seek(0)
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

    def _unlock(file: IO[bytes]) -> None:
        file.seek(0)
        msvcrt.locking(file.fileno(), msvcrt.LK_UNLCK, 1)
else:
    import fcntl

    def _try_lock(file: IO[bytes]) -> bool:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _unlock(file: IO[bytes]) -> None:
        fcntl.flock(file, fcntl.LOCK_UN)
