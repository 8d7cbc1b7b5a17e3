"""Adapter files by digest: written beside their place, then renamed; removed only by who knows that nobody refers."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from loradex.adapters.digest import digest as digest_of
from loradex.adapters.files import CONFIG, WEIGHTS
from loradex.adapters.temporary import is_abandoned, tag
from loradex.errors import FilesNotFound
from loradex.registry import stamp

_TEMPORARY = "tmp-"


class Blobs:
    """The files of every digest, each in its own folder `blobs/ab/abcd...`."""

    def __init__(self, folder: Path) -> None:
        """Make the folder.

        Raises:
            OSError: it cannot be made.
        """
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def path(self, digest: str) -> Path:
        """Return the folder of a digest, whether it is there or not."""
        return self.folder / digest[:2] / digest

    def has(self, digest: str) -> bool:
        """Whether both files of a digest are there; their content is not read."""
        return all((self.path(digest) / name).is_file() for name in (CONFIG, WEIGHTS))

    @contextmanager
    def staging(self) -> Iterator[Path]:
        """Give an empty folder beside the blobs; it is gone afterwards, unless it was published."""
        path = self._temporary()
        path.mkdir()
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)

    def publish(self, staged: Path, digest: str) -> Path:
        """Move a staged folder to its place and return that; a good copy already there stays, a damaged one goes.

        Raises:
            OSError: the disk refuses; the staged folder is then still there.
        """
        path = self.path(digest)
        path.parent.mkdir(exist_ok=True)
        if path.exists():
            if _is_good(path, digest):
                os.utime(path)  # young again: whoever sweeps leaves it alone
                return path
            self.remove(digest)
        stamp.write(staged, stamp.take(staged))  # the digest was made while these files were written
        _sync(staged)
        try:
            staged.rename(path)
        except OSError:
            if not _is_good(path, digest):  # another process was first
                raise
        _sync(path.parent)
        return path

    def remove(self, digest: str) -> None:
        """Remove the files of a digest, at once for everybody who looks.

        Raises:
            OSError: the disk refuses; the files are then still there.
        """
        away = self._temporary()
        with suppress(FileNotFoundError):
            self.path(digest).rename(away)
        shutil.rmtree(away, ignore_errors=True)

    def stored(self) -> Iterator[tuple[str, float]]:
        """Yield every digest with the seconds since it was written or used again."""
        now = time.time()
        for path in self.folder.glob("[0-9a-f][0-9a-f]/*"):
            with suppress(OSError):
                yield path.name, now - path.stat().st_mtime

    def sweep(self) -> None:
        """Remove temporary folders that nobody will finish: their process is gone, or they are older than a day."""
        for path in self.folder.glob(f"{_TEMPORARY}*"):
            with suppress(OSError):
                if is_abandoned(path, path.name.removeprefix(_TEMPORARY)):
                    shutil.rmtree(path, ignore_errors=True)

    def _temporary(self) -> Path:
        return self.folder / f"{_TEMPORARY}{tag()}"


def _is_good(path: Path, digest: str) -> bool:
    try:
        return digest_of(path) == digest
    except FilesNotFound:
        return False


def _sync(folder: Path) -> None:
    if os.name != "posix":  # folders cannot be synced elsewhere
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
