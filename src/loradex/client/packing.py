"""An adapter of this machine as a stream of bytes: a tar of its folder, or the one file that it is."""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

from loradex.errors import FilesNotFound
from loradex.registry.sources.wanted import is_wanted

CHUNK_BYTES = 1 << 20


def packed(path: Path, told: Callable[[str, float], None] | None = None) -> Iterator[bytes]:
    """Yield an archive or GGUF file as it is, a folder as a tar of the files that an adapter has.

    Raises:
        FilesNotFound: there is nothing to send, or it changes while it is read.
    """
    try:
        files = {path: ""} if path.is_file() else _files(path)
        total, sent = sum(each.stat().st_size for each in files) or 1, 0
        for each, name in files.items():
            for piece in _tarred(each, name) if name else _pieces(each):
                sent += len(piece)
                if told is not None:
                    told("upload", min(1.0, sent / total))
                yield piece
        if not path.is_file():
            yield bytes(2 * tarfile.BLOCKSIZE)
    except OSError as error:
        raise FilesNotFound(f"{path} cannot be read: {error.strerror or error}") from error


def _files(folder: Path) -> dict[Path, str]:
    names = {each: each.relative_to(folder).as_posix() for each in sorted(folder.rglob("*")) if each.is_file()}
    found = {each: name for each, name in names.items() if is_wanted(name)}
    if not found:
        raise FilesNotFound(f"No adapter at {folder}: there are no files of an adapter")
    return found


def _tarred(path: Path, name: str) -> Iterator[bytes]:
    info = tarfile.TarInfo(name)
    info.size = path.stat().st_size
    yield info.tobuf(tarfile.PAX_FORMAT)
    size = 0
    for piece in _pieces(path):
        size += len(piece)
        yield piece
    if size != info.size:
        raise FilesNotFound(f"{path} changed while it was read", hint="Try again when nobody writes it")
    yield bytes(-size % tarfile.BLOCKSIZE)


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(CHUNK_BYTES):
            yield piece
