"""From where adapters may be read."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from loradex.adapters.files import AdapterFiles, find_files
from loradex.errors import FilesNotFound, PathNotAllowed


def contained(path: Path | str, allowed: Sequence[Path]) -> Path:
    """Return `path` without symbolic links, if it then lies in an allowed folder; it need not exist.

    The answer is the same for paths that exist and for those that do not: outside, nobody learns which do.

    Raises:
        PathNotAllowed: it lies outside all of them.
    """
    try:
        real = Path(os.path.realpath(path))
        if any(real.is_relative_to(os.path.realpath(folder)) for folder in allowed):
            return real
    except (OSError, ValueError):  # a null byte
        pass
    raise PathNotAllowed(f"The path {str(path)[:500]!r} is outside the folders from which adapters may be loaded")


def find_source(folder: Path | str, allowed: Sequence[Path] | None) -> AdapterFiles:
    """Find the adapter in `folder`, with every symbolic link resolved; None allows every place.

    Raises:
        PathNotAllowed: the folder, or one of its files, lies outside the allowed folders.
        FilesNotFound: there is no adapter.
    """
    files = find_files(Path(os.path.abspath(folder)) if allowed is None else contained(folder, allowed))
    try:
        paths = [_real(path, allowed) for path in (files.config, files.weights)]
    except OSError as error:
        raise FilesNotFound(f"No adapter at {folder}: {error}") from error
    return AdapterFiles(files.folder, paths[0], paths[1], files.pickled)


def _real(path: Path, allowed: Sequence[Path] | None) -> Path:
    return Path(os.path.realpath(path)) if allowed is None else contained(path, allowed)
