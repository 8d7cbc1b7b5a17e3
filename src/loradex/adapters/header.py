"""The header of a safetensors file, read with bounds checked and without touching a tensor."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from loradex.adapters.listing import printable
from loradex.errors import AdapterInvalid, FilesNotFound, Problem

MAX_HEADER_BYTES = 100_000_000  # the safetensors library refuses above this too
MAX_DIMENSIONS = 16

BITS = {
    **dict.fromkeys(("F4",), 4),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0"), 8),
    **dict.fromkeys(("F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 16),
    **dict.fromkeys(("I32", "U32", "F32"), 32),
    **dict.fromkeys(("I64", "U64", "F64", "C64"), 64),
}
"""Bits of one value of each dtype that safetensors knows."""

_EXPORT = "Export it again with PEFT's `save_pretrained`"
_COPY = "Copy or download the file again"

# First bytes of what people rename to .safetensors, with what to do about it.
_DISGUISES: tuple[tuple[bytes, str, str, str], ...] = (
    (b"PK", "pickle", "a zip archive, as torch.save makes them, not safetensors", _EXPORT),
    (b"\x80", "pickle", "a Python pickle, which can run code when it is opened, not safetensors", _EXPORT),
    (
        b"version https://git-lfs",
        "git_lfs_pointer",
        "a git-lfs pointer of a few lines, not the weights",
        "Run `git lfs pull` in the repository that it came from",
    ),
    (b"<", "html", "an HTML or XML page, not safetensors", "Download the file itself, not the page that shows it"),
    (b"GGUF", "gguf", "a GGUF file, not safetensors", "Give the PEFT adapter from which it was converted"),
)


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where a tensor lies: bytes `start` to `end` of the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def count(self) -> int:
        """Number of values."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class Header:
    """The tensors of a file in the order in which they lie, and its free-form metadata."""

    tensors: Mapping[str, TensorInfo]
    metadata: Mapping[str, str]
    size: int


def read_header(path: Path) -> Header:
    """Read the header of a safetensors file; nothing is allocated beyond the header's own size.

    Raises:
        FilesNotFound: the file cannot be opened.
        AdapterInvalid: the file is something else, truncated, or contradicts itself.
    """
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(0)
            start = file.read(32)
            length = _header_length(path, start, size)
            file.seek(8)
            text = file.read(length)
    except OSError as error:
        raise FilesNotFound(f"{path} cannot be read: {error.strerror or error}") from error
    entries = _parse(path, text)
    metadata = _metadata(path, entries.pop("__metadata__", None))
    return Header(_tensors(path, entries, 8 + length, size), metadata, size)


def _refuse(path: Path, code: str, what: str, fix: str = _EXPORT) -> NoReturn:
    raise AdapterInvalid(f"{path} cannot be read", [Problem(code, f"{path.name} {what}", fix)])


def _header_length(path: Path, start: bytes, size: int) -> int:
    if size == 0:
        _refuse(path, "empty_file", "is empty", _COPY)
    for magic, code, what, fix in _DISGUISES:
        # A true file may begin with these bytes too: they would then be the low bytes of its header's length.
        if start.startswith(magic) and start[8:9] != b"{":
            _refuse(path, code, f"is {what}", fix)
    if size < 10:
        _refuse(path, "truncated", f"has {size} bytes; a safetensors file has at least 10", _COPY)
    length = int.from_bytes(start[:8], "little")
    if length > MAX_HEADER_BYTES:
        _refuse(path, "not_safetensors", f"is not safetensors: its header would have {length} bytes, above 100 MB")
    if 8 + length > size:
        _refuse(
            path, "truncated", f"is truncated: the header alone needs {8 + length} bytes, the file has {size}", _COPY
        )
    return length


def _parse(path: Path, text: bytes) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError("a name occurs twice")
        return found

    try:
        entries = json.loads(text.decode("utf-8"), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        _refuse(path, "bad_header", f"has a header that is not JSON: {error}")
    if not isinstance(entries, dict):
        _refuse(path, "bad_header", "has a header that is not a JSON object")
    return entries


def _metadata(path: Path, found: Any) -> dict[str, str]:
    if found is None:
        return {}
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        _refuse(path, "bad_header", "has metadata that is not a table of strings")
    return found


def _tensors(path: Path, entries: dict[str, Any], begin: int, size: int) -> dict[str, TensorInfo]:
    found = {name: _tensor(path, name, entry, begin) for name, entry in entries.items()}
    ordered = dict(sorted(found.items(), key=lambda item: (item[1].start, item[1].end)))
    position = begin
    for name, info in ordered.items():
        if info.start != position:
            kind = "overlaps the tensor before it" if info.start < position else "leaves a gap before it"
            _refuse(path, "bad_header", f"contradicts itself: `{printable(name)}` {kind}")
        position = info.end
    if position > size:
        _refuse(path, "truncated", f"is truncated: its header describes {position} bytes, the file has {size}", _COPY)
    if position < size:
        _refuse(path, "bad_header", f"has {size - position} bytes after its last tensor, which nothing describes")
    return ordered


def _tensor(path: Path, name: str, entry: Any, begin: int) -> TensorInfo:
    def wrong(what: str) -> NoReturn:
        _refuse(path, "bad_header", f"has a wrong entry for `{printable(name)}`: {what}")

    if not name.isprintable():
        wrong("a name must be one printable line")
    if not isinstance(entry, dict):
        wrong("it is not an object")
    dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in BITS:
        wrong(f"dtype {str(dtype)[:40]} is unknown")
    if not isinstance(shape, list) or len(shape) > MAX_DIMENSIONS or not all(_is_size(side) for side in shape):
        wrong(f"its shape is not a list of up to {MAX_DIMENSIONS} sizes")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(_is_size(offset) for offset in offsets):
        wrong("its data_offsets are not two positions")
    first, last = offsets
    needed = math.prod(shape) * BITS[dtype]
    if first > last or (last - first) * 8 != needed:
        wrong(f"{dtype} {shape} needs {needed / 8:.12g} bytes, its data_offsets span {last - first}")
    return TensorInfo(dtype, tuple(shape), begin + first, begin + last)


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63
