"""Archives: zip, tar and tar.gz, unpacked without leaving our folder, following a link, or blowing up.

What neither is a file nor a folder is refused, not skipped: an adapter has none, so somebody means harm or packed the
wrong thing. Other compressions are not read, since their decoders take whatever memory an archive asks for.
"""

from __future__ import annotations

import gzip
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from typing import IO, BinaryIO, Final, TypeVar, cast

from loradex.errors import AdapterInvalid
from loradex.registry.sources.room import CHUNK_BYTES, MAX_FILES, Room

SUFFIXES: Final = (".zip", ".tar", ".tar.gz", ".tgz")

_MAX_READ = 16 << 20
"""Headers and directories of archives are read at once: one that claims more is no adapter."""

_BROKEN: Final[tuple[type[Exception], ...]] = (
    *(tarfile.TarError, zipfile.BadZipFile, zlib.error, gzip.BadGzipFile, EOFError),
    # What these readers let through of headers that make no sense, and of encrypted entries.
    *(ValueError, RuntimeError, OverflowError, IndexError),
)

T = TypeVar("T")


def is_archive(name: str) -> bool:
    """Return whether a file of this name is an archive."""
    return name.lower().endswith(SUFFIXES)


def looks_packed(file: BinaryIO) -> bool:
    """Return whether a file holds an archive, by its content; it is left at its start."""
    start = file.read(512)
    file.seek(0)
    return start.startswith((b"PK\x03\x04", b"\x1f\x8b")) or start[257:262] == b"ustar"


def unpack(file: BinaryIO, room: Room) -> None:
    """Unpack an archive, whichever of the kinds it is.

    Raises:
        AdapterInvalid: it is broken, holds links or devices, names places outside, or is larger than there is room.
        OSError: the disk refuses.
    """
    start = file.read(4)
    file.seek(0)
    if start.startswith(b"PK"):
        members = _zip(file, room)
    elif start.startswith(b"\x1f\x8b"):
        members = _tar(cast(IO[bytes], gzip.GzipFile(fileobj=file)), room)
    else:
        members = _tar(file, room)
    count = 0
    for name, pieces in _readable(members, room):
        room.write(name, _readable(pieces, room))
        count += 1
    if not count:
        raise room.refused("archive_broken", "it is an archive without files", "Pack the folder of the adapter")


def _tar(file: IO[bytes], room: Room) -> Iterator[tuple[str, Iterator[bytes]]]:
    with tarfile.open(fileobj=_bounded(file), mode="r:") as tar:
        for count, member in enumerate(tar):
            if count > MAX_FILES:
                raise _unsafe(room, f"it has more than {MAX_FILES} entries")
            if member.isdir():
                continue
            if not member.isreg() or member.issparse():
                raise _unsafe(room, f"{member.name[:200]!r} is a link or no regular file")
            content = tar.extractfile(member)
            if content is not None:
                yield _plain(member.name), _pieces(content)


def _zip(file: IO[bytes], room: Room) -> Iterator[tuple[str, Iterator[bytes]]]:
    with zipfile.ZipFile(_bounded(file)) as archive:
        entries = archive.infolist()
        if len(entries) > MAX_FILES:
            raise _unsafe(room, f"it has more than {MAX_FILES} entries")
        for entry in entries:
            if entry.is_dir():
                continue
            kind = stat.S_IFMT(entry.external_attr >> 16)
            if kind not in (0, stat.S_IFREG):
                raise _unsafe(room, f"{entry.filename[:200]!r} is a link or no regular file")
            if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise _unsafe(room, f"{entry.filename[:200]!r} is packed in a way that is not read here")
            with archive.open(entry) as content:
                yield _plain(entry.filename), _pieces(content)


def _plain(name: str) -> str:
    # `tar -C folder .` writes `./adapter_config.json`.
    return name.removeprefix("./")


def _pieces(content: IO[bytes]) -> Iterator[bytes]:
    while piece := content.read(CHUNK_BYTES):
        yield piece


def _readable(items: Iterator[T], room: Room) -> Iterator[T]:
    """Yield what comes; what a broken archive raises becomes the reason of a refusal."""
    while True:
        try:
            item = next(items)
        except StopIteration:
            return
        except AdapterInvalid:
            raise
        except _BROKEN as error:
            said = f"it is damaged, or no zip, tar or tar.gz: {error}"
            raise room.refused("archive_broken", said, "Pack it again, as .zip, .tar or .tar.gz") from error
        yield item


def _unsafe(room: Room, what: str) -> AdapterInvalid:
    return room.refused("unsafe_source", what, "Pack the adapter's own files, without links")


def _bounded(file: IO[bytes]) -> IO[bytes]:
    return cast(IO[bytes], _Bounded(file))


class _Bounded:
    """A file that refuses to read very much at once: the readers above take a header's word for its length."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable

    def read(self, size: int = -1) -> bytes:
        if size > _MAX_READ:
            raise ValueError(f"a header claims {size} bytes")
        found = self._file.read(size if size >= 0 else _MAX_READ + 1)
        if len(found) > _MAX_READ:
            raise ValueError("its directory is too large")
        return found

    def close(self) -> None:
        pass
