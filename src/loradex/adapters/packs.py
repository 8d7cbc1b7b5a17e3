"""Where packs lie: adapter weights made ready for an engine, which can be made again from the files they came from."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from loradex.adapters.temporary import is_abandoned, tag

FOLDER = "packs"
"""The folder of packs in a data folder."""

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
        return self.folder / f"{digest}.{tag()}{_TEMPORARY}"

    def publish(self, temporary: Path, path: Path) -> None:
        """Give a pack that is whole its name, once it is safely on disk.

        Raises:
            OSError: the disk refuses; the temporary file is then gone.
        """
        try:
            # It may be mapped already, and then nobody may open it for writing; elsewhere only writers can sync.
            with temporary.open("rb" if os.name == "posix" else "rb+") as file:
                os.fsync(file.fileno())
            if os.name == "posix":  # elsewhere a read-only file cannot be removed
                temporary.chmod(0o444)  # whoever wrote into it would change weights that are mapped
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    def remove(self, digest: str) -> None:
        """Remove every pack of a digest. Whoever has one mapped keeps it; what cannot be removed is swept later."""
        self._unlink(lambda path: _digest(path) == digest)

    def sweep(self, known: Callable[[str], bool]) -> None:
        """Remove packs of unknown digests, and those that nobody will finish."""
        self._unlink(lambda path: not known(_digest(path)) or _is_left(path))

    def _unlink(self, unwanted: Callable[[Path], bool]) -> None:
        with suppress(FileNotFoundError):
            for path in list(self.folder.iterdir()):
                with suppress(OSError):
                    if unwanted(path):
                        path.unlink()


def _digest(path: Path) -> str:
    return path.name.partition(".")[0]


def _is_left(path: Path) -> bool:
    return path.suffix == _TEMPORARY and is_abandoned(path, path.name.split(".")[1])
