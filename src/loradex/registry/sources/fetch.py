"""One door for every source: whatever is named, a folder or file of this machine comes out, and where it came from."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from loradex.errors import FilesNotFound, InvalidRequest, PathNotAllowed
from loradex.registry.source import contained
from loradex.registry.sources import bucket, hub, web
from loradex.registry.sources.access import EVERYWHERE, Access
from loradex.registry.sources.address import is_short, is_url
from loradex.registry.sources.archive import is_archive, looks_packed, unpack
from loradex.registry.sources.room import Room
from loradex.registry.staging import opened

_FILES = (".gguf", ".nemo", ".safetensors")
"""What is one file on a web server, beside archives; anything else there is a folder."""

MakeRoom = Callable[[], Room]
"""Makes an empty room of ours; called at most twice for one source."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """A source that lies on this machine.

    Attributes:
        path: folder or file.
        origin: where it was taken from, exactly: with the commit on the Hub, without passwords.
        allowed: folders in which its files may lie; None where they are ours already.
        sha256: of the one file that the source is, such as an archive; empty for a folder.
    """

    path: Path
    origin: str
    allowed: tuple[Path, ...] | None
    sha256: str = ""

    def is_file(self, sha256: str) -> bool:
        """Return whether the source is one file with this SHA-256."""
        if self.sha256 or not self.path.is_file():
            return self.sha256 == sha256
        with opened(Path(os.path.realpath(self.path))) as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == sha256


@dataclass(frozen=True, slots=True)
class Upload:
    """What a client sent: a file in a folder of ours, and its SHA-256."""

    path: Path
    sha256: str


def fetch(source: str, make_room: MakeRoom, access: Access = EVERYWHERE) -> Fetched:
    """Bring a source to this machine, where it is not there already.

    Raises:
        PathNotAllowed: `access` does not allow the place.
        FilesNotFound: there is nothing.
        InvalidRequest: it is an address of no known form.
        SourceFailed, MissingExtra: it cannot be reached, or needs a package.
        AdapterInvalid: an archive is broken or unsafe, or it is larger than may be.
        OSError: the disk refuses.
    """
    if not is_url(source):
        return _local(source, make_room, access)
    if source.startswith("file://"):
        return _local(unquote(urlsplit(source).path), make_room, access)
    access.permit(source)
    try:
        scheme, path = urlsplit(source).scheme.lower(), unquote(urlsplit(source).path)
    except ValueError as error:
        raise InvalidRequest(f"{source[:200]!r} is not an address: {error}") from error
    room = make_room()
    if scheme == "hf":
        folder, pinned = hub.fetch(hub.parse(source), room)
        return Fetched(folder, str(pinned), None)
    if scheme in ("http", "https"):
        return _from_web(source, path, room, make_room, access)
    if not (found := bucket.fetch(source, room)):
        return Fetched(room.folder, web.shown(source), None)
    return _file(room, *found, web.shown(source), make_room)


def unpacked(upload: Upload, make_room: MakeRoom) -> Fetched:
    """Take what a client sent: an archive, or one GGUF file.

    Raises:
        AdapterInvalid: it is neither, or an archive that is broken or unsafe.
        OSError: the disk refuses.
    """
    with upload.path.open("rb") as content:
        if looks_packed(content):
            room = make_room()
            unpack(content, room)
            return Fetched(room.folder, "upload", None, upload.sha256)
        gguf = content.read(4) == b"GGUF"
    if not gguf:
        fix = "Send a .zip, .tar or .tar.gz of the adapter's folder, or a .gguf file"
        raise make_room().refused("not_an_adapter", "it is neither an archive nor a GGUF file", fix)
    named = upload.path.with_suffix(".gguf")
    upload.path.rename(named)
    return Fetched(named, "upload", None, upload.sha256)


def _local(source: str, make_room: MakeRoom, access: Access) -> Fetched:
    try:
        path = Path(os.path.realpath(source)) if access.folders is None else contained(source, access.folders)
        there = path.exists() or path.parent.exists()
    except PathNotAllowed:
        if not _on_hub(source, access):
            raise
        there = False
    except (OSError, ValueError) as error:
        raise FilesNotFound(f"No adapter at {source[:200]!r}: {error}") from error
    if not there and _on_hub(source, access):
        return fetch(f"hf://{source}", make_room, access)
    if not (is_archive(source) and path.is_file()):
        allowed = None if access.folders is None else tuple(access.folders)
        return Fetched(Path(source), "", allowed)
    room = make_room()
    with opened(path) as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        file.seek(0)
        room.expect(path.stat().st_size, "unpack")
        unpack(file, room)
    return Fetched(room.folder, os.path.abspath(source), None, digest)


def _on_hub(source: str, access: Access) -> bool:
    if not is_short(source):
        return False
    try:
        access.permit(f"hf://{source}")
    except PathNotAllowed:
        return False
    return True


def _from_web(url: str, path: str, room: Room, make_room: MakeRoom, access: Access) -> Fetched:
    name = path.rpartition("/")[2]
    if not (is_archive(name) or name.lower().endswith(_FILES)):
        web.fetch_folder(url, room, access.permit)
        return Fetched(room.folder, web.shown(url), None)
    return _file(room, name, web.fetch_file(url, name, room, access.permit), web.shown(url), make_room)


def _file(room: Room, name: str, sha256: str, origin: str, make_room: MakeRoom) -> Fetched:
    """Return one file that was downloaded, unpacked where it is an archive."""
    path = room.folder / name
    if not is_archive(name):
        return Fetched(path, origin, None, sha256)
    inner = make_room()
    with path.open("rb") as file:
        unpack(file, inner)
    return Fetched(inner.folder, origin, None, sha256)


def pinned(sha256: str) -> str:
    """Return a SHA-256 in lower case and without `sha256:`; empty stays empty.

    Raises:
        InvalidRequest: it is none.
    """
    plain = sha256.strip().lower().removeprefix("sha256:")
    if plain and not re.fullmatch(r"[0-9a-f]{64}", plain):
        raise InvalidRequest(f"{sha256[:100]!r} is no SHA-256: it has 64 hexadecimal digits", param="sha256")
    return plain
