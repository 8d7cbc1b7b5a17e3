"""Copies an adapter into a folder of ours: what is checked and served is the copy, which nobody else can change."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from loradex.adapters.digest import copy_and_digest, digest_files
from loradex.adapters.files import CONFIG, MAX_CONFIG_BYTES, PICKLED, WEIGHTS, AdapterFiles
from loradex.adapters.pickled import convert
from loradex.errors import FilesNotFound


def copy_in(files: AdapterFiles, folder: Path) -> str:
    """Copy configuration and weights into `folder`, safely on disk, and return their digest.

    Pickled weights are turned into safetensors; the caller has been asked to.

    Raises:
        FilesNotFound: a file cannot be opened, or is no regular file.
        AdapterInvalid, MissingExtra: pickled weights cannot be converted.
        OSError: the copy cannot be written.
    """
    with _opened(files.config) as file:
        config = file.read(MAX_CONFIG_BYTES + 1)  # one more than is accepted: the check then says so
    with (folder / CONFIG).open("xb") as target:
        target.write(config)
        _finish(target)
    copy = folder / (PICKLED if files.pickled else WEIGHTS)
    with _opened(files.weights) as file, copy.open("xb") as target:
        digest = copy_and_digest(config, file, target)
        _finish(target)
    if files.pickled:
        convert(copy, folder / WEIGHTS)
        copy.unlink()
        with (folder / WEIGHTS).open("rb+") as target:
            _finish(target)
        digest = digest_files(folder / CONFIG, folder / WEIGHTS)
    return digest


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        handle = _open_exactly(path)
    except OSError as error:
        raise FilesNotFound(f"{path} cannot be read: {error.strerror or error}") from error
    with os.fdopen(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise FilesNotFound(f"{path} is not a regular file")
        yield file


def _open_exactly(path: Path) -> int:
    """Open a path that was resolved before, and follow no link on the way: it would have been put in since."""
    # Without O_NONBLOCK a named pipe would wait for ever.
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    if os.open not in os.supports_dir_fd:
        return os.open(path, flags)
    # O_PATH does not ask for leave to list the folder, only to pass through.
    folder = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_NOFOLLOW
    here = os.open(path.anchor, folder)
    try:
        for part in path.parts[1:-1]:
            here, above = os.open(part, folder, dir_fd=here), here
            os.close(above)
        return os.open(path.name, flags, dir_fd=here)
    finally:
        os.close(here)


def _finish(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
    if os.name == "posix":  # elsewhere a read-only file cannot be removed
        os.chmod(file.name, 0o444)
