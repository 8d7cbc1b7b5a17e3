"""What identifies an adapter: SHA-256 over its configuration and its weights, byte for byte."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

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

    def hex(self) -> str:
        """Return the digest in hexadecimal."""
        return self._hash.hexdigest()


def copy_and_digest(
    config: bytes, weights: BinaryIO, target: BinaryIO | None, rest: Callable[[], None] = lambda: None
) -> str:
    """Return the digest of what is read, and write the same bytes to `target`: neither can differ from the other.

    `rest` is called after every piece.
    """
    digest = Digest(config)
    while piece := weights.read(CHUNK_BYTES):
        digest.update(piece)
        if target is not None:
            target.write(piece)
        rest()
    return digest.hex()


def digest_files(config: Path, weights: Path, rest: Callable[[], None] = lambda: None) -> str:
    """Return the digest of these two files; `rest` is called after every piece.

    Raises:
        FilesNotFound: one of them cannot be read.
    """
    try:
        with weights.open("rb") as file:
            return copy_and_digest(config.read_bytes(), file, None, rest)
    except OSError as error:
        raise FilesNotFound(f"{error.filename or weights} cannot be read: {error.strerror or error}") from error


def digest(folder: Path) -> str:
    """Return the digest of the adapter in `folder`, which holds configuration and safetensors.

    Raises:
        FilesNotFound: one of the files cannot be read.
    """
    return digest_files(folder / "adapter_config.json", folder / "adapter_model.safetensors")
