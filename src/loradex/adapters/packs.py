"""Where packs lie: adapter weights made ready for an engine, which can be made again from the files they came from."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

FOLDER = "packs"
"""The folder of packs in a data folder."""

STALE_SECONDS = 24 * 3600
_TEMPORARY = ".tmp"


class PackFolder:
    """A folder of packs, one file for each digest, dtype and layout. It is made when the first pack is."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, digest: str, dtype: str, layout: int) -> Path:
        """Return the place of a pack, whether it is there or not."""
        return self.folder / f"{digest}.{dtype}.v{layout}.pack"

    def files(self, digest: str) -> list[Path]:
        """Return the packs of a digest that are there, those in the making left out."""
        return sorted(self.folder.glob(f"{digest}.*.pack"))

    def temporary(self, digest: str) -> Path:
        """Return a new name beside the packs, for one in the making.

        Raises:
            OSError: the folder cannot be made.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        return self.folder / f"{digest}.{secrets.token_hex(8)}{_TEMPORARY}"

    def publish(self, temporary: Path, path: Path) -> None:
        """Give a pack that is whole its name, once it is safely on disk.

        Raises:
            OSError: the disk refuses; the temporary file is then gone.
        """
        try:
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    def remove(self, digest: str) -> None:
        """Remove every pack of a digest. Whoever has one mapped keeps it; what cannot be removed is swept later."""
        self._unlink(lambda path: _digest(path) == digest)

    def sweep(self, known: Callable[[str], bool]) -> None:
        """Remove packs of unknown digests, and those that nobody finished within a day."""
        self._unlink(lambda path: not known(_digest(path)) or (path.suffix == _TEMPORARY and _is_old(path)))

    def _unlink(self, unwanted: Callable[[Path], bool]) -> None:
        with suppress(FileNotFoundError):
            for path in list(self.folder.iterdir()):
                with suppress(OSError):
                    if unwanted(path):
                        path.unlink()


def _digest(path: Path) -> str:
    return path.name.partition(".")[0]


def _is_old(path: Path) -> bool:
    return time.time() - path.stat().st_mtime > STALE_SECONDS
