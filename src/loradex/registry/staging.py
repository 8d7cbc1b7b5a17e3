"""Copies an adapter into a folder of ours: what is checked and served is the copy, which nobody else can change."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO

from loradex.adapters.digest import CHUNK_BYTES, copy_and_digest, digest_files
from loradex.adapters.files import CONFIG, MAX_CONFIG_BYTES, MAX_WEIGHTS_BYTES, PICKLED, WEIGHTS, AdapterFiles
from loradex.adapters.formats.detect import ForeignFiles
from loradex.adapters.header import read_header
from loradex.adapters.tokenizer import FILE as VOCABULARY
from loradex.adapters.tokenizer import read_vocabulary, trains_tokens
from loradex.adapters.vocabulary import Vocabulary
from loradex.core.model import ModelInfo
from loradex.errors import AdapterInvalid, FilesNotFound, Problem

ORIGINAL = "original"
"""The folder in which an adapter of another form lies while it is read."""

Rest = Callable[[], None]
"""Called after every piece of work."""


@dataclass(frozen=True, slots=True)
class Copied:
    """What lies in the folder now: the digest, and from what it was converted, empty for what PEFT saved."""

    digest: str
    note: str = ""


def copy_in(files: AdapterFiles | ForeignFiles, folder: Path, base: ModelInfo, rest: Rest = lambda: None) -> Copied:
    """Bring configuration and weights into `folder` in PEFT's form, safely on disk.

    What has another form, pickled weights among them, is copied, so that nobody changes it meanwhile, converted, and
    leaves the folder again; the caller has been asked to take pickles.

    Raises:
        FilesNotFound: a file cannot be opened, or is no regular file.
        AdapterInvalid: it cannot be converted.
        OSError: the copy cannot be written.
    """
    if isinstance(files, ForeignFiles):
        return _convert_in(files, folder, base, rest)
    with opened(files.config) as file:
        config = file.read(MAX_CONFIG_BYTES + 1)  # one more than is accepted: the check then says so
    with (folder / CONFIG).open("xb") as target:
        target.write(config)
        _finish(target)
    if files.pickled:
        return _unpickle_in(files, folder, rest)
    with opened(files.weights) as file, (folder / WEIGHTS).open("xb") as target:
        digest = copy_and_digest(config, file, target, rest)
        _finish(target)
    return Copied(digest.hex(_add_vocabulary(files, folder)))


def _unpickle_in(files: AdapterFiles, folder: Path, rest: Rest) -> Copied:
    from loradex.adapters.pickled import convert  # and numpy with it: listing must not wait for that

    origin = _copy_originals({PICKLED: files.weights}, folder, rest)
    convert(folder / ORIGINAL / PICKLED, folder / WEIGHTS)
    vocabulary = _add_vocabulary(files, folder)
    return _settled(folder, f"converted from a pickle with SHA-256 {origin}", rest, vocabulary)


def _add_vocabulary(files: AdapterFiles, folder: Path) -> bytes:
    """Write the tokens that the tokenizer beside an adapter adds, where it trains any; return what was written."""
    try:
        wanted = bool(files.tokenizer) and trains_tokens(read_header(folder / WEIGHTS).tensors)
    except AdapterInvalid:  # the check will say so
        return b""
    vocabulary = _read_tokenizer(files) if wanted else None
    if vocabulary is None:
        return b""
    with (folder / VOCABULARY).open("xb") as target:
        target.write(vocabulary.encoded())
        _finish(target)
    return vocabulary.encoded()


def _read_tokenizer(files: AdapterFiles) -> Vocabulary | None:
    for path in files.tokenizer.values():
        with opened(path):  # a regular file, and no link that was put in since
            pass
    return read_vocabulary(files.tokenizer)


def _convert_in(files: ForeignFiles, folder: Path, base: ModelInfo, rest: Rest) -> Copied:
    from loradex.adapters.formats.convert import read_foreign  # and numpy, as above
    from loradex.adapters.formats.peft import write_peft

    origin = _copy_originals(files.parts, folder, rest)
    copies = {name: folder / ORIGINAL / name for name in files.parts}
    write_peft(read_foreign(files.format, copies, base), folder, rest)
    return _settled(folder, f"converted from {files.format} with SHA-256 {origin}", rest)


def _copy_originals(parts: Mapping[str, Path], folder: Path, rest: Rest) -> str:
    """Copy files into the folder of originals and return the SHA-256 of all their bytes, by name."""
    size, digest = 0, hashlib.sha256()
    for name, source in sorted(parts.items()):
        target = folder / ORIGINAL / name
        target.parent.mkdir(parents=True, exist_ok=True)
        with opened(source) as file, target.open("xb") as copy:
            while piece := file.read(CHUNK_BYTES):
                size += len(piece)
                if size > MAX_WEIGHTS_BYTES:
                    what = f"{source.name} is above the limit of {MAX_WEIGHTS_BYTES >> 30} GiB"
                    problem = Problem("too_large", what, "Give the adapter alone, without weights of its base")
                    raise AdapterInvalid(f"{source} cannot be read", [problem])
                digest.update(piece)
                copy.write(piece)
                rest()
    return digest.hexdigest()


def _settled(folder: Path, note: str, rest: Rest, vocabulary: bytes = b"") -> Copied:
    shutil.rmtree(folder / ORIGINAL)
    for name in (CONFIG, WEIGHTS):
        with (folder / name).open("rb+") as target:
            _finish(target)
    return Copied(digest_files(folder / CONFIG, folder / WEIGHTS, rest, vocabulary=vocabulary), note)


@contextmanager
def opened(path: Path) -> Iterator[BufferedReader]:
    """Open a regular file whose path has no links in it. Raises FilesNotFound where it cannot be read."""
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
