"""From where adapters may be read."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from loradex.adapters.files import AdapterFiles
from loradex.adapters.formats.detect import ForeignFiles, find_adapter
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


def find_source(path: Path | str, allowed: Sequence[Path] | None) -> AdapterFiles | ForeignFiles:
    """Find the adapter at a path, with every symbolic link resolved; None allows every place.

    Raises:
        PathNotAllowed: the path, or a file of the adapter, lies outside the allowed folders.
        FilesNotFound: there is no adapter.
    """
    files = find_adapter(Path(os.path.abspath(path)) if allowed is None else contained(path, allowed))
    try:
        if isinstance(files, ForeignFiles):
            return replace(files, parts={name: _real(part, allowed) for name, part in files.parts.items()})
        tokenizer = {name: _real(each, allowed) for name, each in files.tokenizer.items()}
        config, weights = _real(files.config, allowed), _real(files.weights, allowed)
        return replace(files, config=config, weights=weights, tokenizer=tokenizer)
    except OSError as error:
        raise FilesNotFound(f"No adapter at {path}: {error}") from error


def weights_size(files: AdapterFiles) -> int:
    """Return the bytes of the weights file.

    Raises:
        FilesNotFound: it cannot be read.
    """
    try:
        return files.weights.stat().st_size
    except OSError as error:
        raise FilesNotFound(f"{files.weights} cannot be read: {error.strerror or error}") from error


def _real(path: Path, allowed: Sequence[Path] | None) -> Path:
    return Path(os.path.realpath(path)) if allowed is None else contained(path, allowed)
