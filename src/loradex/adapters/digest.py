"""What identifies an adapter: SHA-256 over its configuration and its weights, byte for byte, and its added tokens."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from loradex.adapters.files import CONFIG, WEIGHTS
from loradex.adapters.tokenizer import FILE as VOCABULARY
from loradex.errors import FilesNotFound

CHUNK_BYTES = 1 << 20


class Digest:
    """The digest of an adapter whose files are fed to it: first the configuration, then the weights in pieces."""

    def __init__(self, config: bytes) -> None:
        self._hash = hashlib.sha256(b"loradex adapter 1\n")
        # The length keeps a byte from moving between configuration and weights without a trace.
        self._hash.update(len(config).to_bytes(8, "little"))
        self._hash.update(config)

    def update(self, piece: bytes) -> None:
        """Add the next piece of the weights."""
        self._hash.update(piece)

    def hex(self, vocabulary: bytes = b"") -> str:
        """Return the digest in hexadecimal, with the tokens that the adapter adds, if any."""
        if vocabulary:  # weights say themselves where they end, so that nothing can move between them
            self._hash.update(b"\nvocabulary\n" + vocabulary)
        return self._hash.hexdigest()


def copy_and_digest(
    config: bytes, weights: BinaryIO, target: BinaryIO | None, rest: Callable[[], None] = lambda: None
) -> Digest:
    """Return the digest of what is read, and write the same bytes to `target`: neither can differ from the other.

    `rest` is called after every piece.
    """
    digest = Digest(config)
    while piece := weights.read(CHUNK_BYTES):
        digest.update(piece)
        if target is not None:
            target.write(piece)
        rest()
    return digest


def digest_files(
    config: Path, weights: Path, rest: Callable[[], None] = lambda: None, *, vocabulary: bytes = b""
) -> str:
    """Return the digest of these two files, and of added tokens; `rest` is called after every piece.

    Raises:
        FilesNotFound: one of them cannot be read.
    """
    try:
        with weights.open("rb") as file:
            return copy_and_digest(config.read_bytes(), file, None, rest).hex(vocabulary)
    except OSError as error:
        raise FilesNotFound(f"{error.filename or weights} cannot be read: {error.strerror or error}") from error


def digest(folder: Path) -> str:
    """Return the digest of the stored adapter in `folder`.

    Raises:
        FilesNotFound: one of the files cannot be read.
    """
    added = folder / VOCABULARY
    try:
        vocabulary = added.read_bytes() if added.is_file() else b""
    except OSError as error:
        raise FilesNotFound(f"{added} cannot be read: {error.strerror or error}") from error
    return digest_files(folder / CONFIG, folder / WEIGHTS, vocabulary=vocabulary)
