"""A folder of ours into which a source is brought: nothing lands outside it, and no more than a limit."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path

from loradex.errors import AdapterInvalid, Problem

Told = Callable[[str, float], None]
"""Told what is being done and how much of it is done, from 0 to 1."""

MAX_FILES = 4096
CHUNK_BYTES = 1 << 20


class Room:
    """Takes files under relative names.

    Args:
        folder: empty, and nobody else's.
        limit: bytes that may be written in all.
        what: the source in words, for messages.
        told: told how far it is, once `expect` has said how much there is.
        rest: called after every piece, to leave the machine to others.
    """

    def __init__(
        self,
        folder: Path,
        limit: int,
        what: str,
        told: Told | None = None,
        rest: Callable[[], None] = lambda: None,
    ) -> None:
        self.folder = folder
        self.limit = limit
        self._what = what
        self._told = told
        self._rest = rest
        self._written = 0
        self._files = 0
        self._expected = 0

    def expect(self, size: int, what: str = "download") -> None:
        """Say how many bytes there will be; from then on progress is told.

        Raises:
            AdapterInvalid: more than may be written.
        """
        self._check_size(size)
        self._expected, self._stage, self._written_before = size, what, self._written
        self._tell()

    def write(self, name: str, pieces: Iterable[bytes]) -> str:
        """Write one file and return the SHA-256 of its content.

        Raises:
            AdapterInvalid: the name leads out of the folder or is there already, or the limit is passed.
            OSError: the disk refuses.
        """
        path = self._place(name)
        self._files += 1
        if self._files > MAX_FILES:
            raise self.refused("too_large", f"it holds more than {MAX_FILES} files", "Give the adapter alone")
        digest = hashlib.sha256()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = path.open("xb")
        except (FileExistsError, NotADirectoryError) as error:
            raise self.refused("unsafe_source", f"the name {name[:200]!r} is there twice", "Pack it again") from error
        with file:
            for piece in pieces:
                self._check_size(self._written + len(piece))
                file.write(piece)
                digest.update(piece)
                self._written += len(piece)
                self._tell()
                self._rest()
        return digest.hexdigest()

    def refused(self, code: str, what: str, fix: str) -> AdapterInvalid:
        """Return the error that refuses the source."""
        return AdapterInvalid(f"{self._what} cannot be read", [Problem(code, what, fix)])

    def _check_size(self, size: int) -> None:
        if size > self.limit:
            fix = "Give the adapter alone, or raise `--max-adapter-size`"
            raise self.refused("too_large", f"it is larger than the limit of {self.limit} bytes", fix)

    def _tell(self) -> None:
        if self._told is not None and self._expected:
            self._told(self._stage, min(1.0, (self._written - self._written_before) / self._expected))

    def _place(self, name: str) -> Path:
        parts = name.split("/")
        # A backslash or a colon is a path of its own on some systems.
        if any(part in ("", ".", "..") or "\\" in part or "\0" in part for part in parts) or ":" in parts[0]:
            raise self.refused("unsafe_source", f"the name {name[:200]!r} leads out of it", "Pack the folder again")
        if max(len(part.encode("utf-8", "surrogateescape")) for part in parts) > 255 or len(name) > 1024:
            raise self.refused("unsafe_source", f"the name {name[:64]!r}... is too long", "Pack the folder again")
        return self.folder.joinpath(*parts)
