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

_READ_ONLY = 0o444


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
    # The path was resolved before: a link here was put in since. Without O_NONBLOCK a named pipe would wait for ever.
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        handle = os.open(path, flags)
    except OSError as error:
        raise FilesNotFound(f"{path} cannot be read: {error.strerror or error}") from error
    with os.fdopen(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise FilesNotFound(f"{path} is not a regular file")
        yield file


def _finish(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
    os.chmod(file.name, _READ_ONLY)
