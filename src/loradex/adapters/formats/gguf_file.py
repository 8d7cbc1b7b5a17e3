"""A GGUF file, read with every length held against the size of the file, and mapped.

The layout is that of `ggml/docs/gguf.md`: magic, version, counts, metadata, tensor descriptions, padding, data; all
little-endian. The reader in the package `gguf` believes the lengths that a file states, so that a file of a few bytes
keeps it busy, and growing, for ever; files here come from anywhere. Writing is left to that package.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

import numpy as np
from numpy.typing import NDArray

from loradex.adapters.formats.refusal import refuse
from loradex.adapters.formats.tensor import Tensor, file_bytes, tensor_at

MAX_ENTRIES: Final = 1 << 16
"""Of metadata, and of tensors."""

MAX_ITEMS: Final = 1 << 20
"""Of one array in the metadata."""

_MAX_TEXT: Final = 1 << 20
_MAX_DIMENSIONS: Final = 4
_VERSIONS: Final = (2, 3)
_SCALARS: Final = ("<B", "<b", "<H", "<h", "<I", "<i", "<f", "<?", "", "", "<Q", "<q", "<d")
_TEXT: Final = 8
_ARRAY: Final = 9
_DTYPES: Final[Mapping[int, str]] = {0: "F32", 1: "F16", 28: "F64", 30: "BF16"}


@dataclass(frozen=True, slots=True)
class GgufFile:
    """Metadata by key, and tensors by name, their shapes slowest size first."""

    metadata: Mapping[str, Any]
    tensors: Mapping[str, Tensor]


def read_gguf_file(path: Path) -> GgufFile:
    """Read a file, which must not change while its tensors are used.

    Raises:
        AdapterInvalid: it is no GGUF file, contradicts itself, or holds quantized tensors.
        OSError: it cannot be opened.
    """
    cursor = _Cursor(path, file_bytes(path))
    if cursor.take(4) != b"GGUF":
        refuse(path, "not_gguf", "is not a GGUF file", "Give a file that `convert_lora_to_gguf.py` wrote")
    version = cursor.number("<I")
    if version not in _VERSIONS:
        big = version.to_bytes(4, "big") in (one.to_bytes(4, "little") for one in _VERSIONS)
        what = "is big-endian" if big else f"has version {version}; 2 and 3 are read"
        refuse(path, "not_gguf", what, "Write it again with a current `convert_lora_to_gguf.py`")
    tensors, entries = cursor.number("<Q"), cursor.number("<Q")
    if max(tensors, entries) > MAX_ENTRIES:
        cursor.broken(f"it would hold {tensors} tensors and {entries} entries")
    metadata: dict[str, Any] = {}
    for _ in range(entries):
        key = cursor.text()
        if key in metadata:
            cursor.broken(f"the key `{key}` occurs twice")
        metadata[key] = cursor.value(cursor.number("<I"))
    return GgufFile(metadata, _tensors(cursor, tensors, metadata.get("general.alignment", 32)))


def _tensors(cursor: _Cursor, count: int, alignment: Any) -> dict[str, Tensor]:
    if type(alignment) is not int or not 0 < alignment <= 1 << 20:
        cursor.broken("its alignment is no size")
    places: dict[str, tuple[str, tuple[int, ...], int]] = {}
    for _ in range(count):
        name, dimensions = cursor.text(), cursor.number("<I")
        if name in places or not name.isprintable():
            cursor.broken("a tensor's name occurs twice or is no line of text")
        if dimensions > _MAX_DIMENSIONS:
            cursor.broken(f"`{name}` has {dimensions} dimensions")
        sides = [cursor.number("<Q") for _ in range(dimensions)]
        kind, offset = cursor.number("<I"), cursor.number("<Q")
        if kind not in _DTYPES:
            what = f"holds `{name}` as ggml type {kind}: quantized adapters are not served"
            refuse(cursor.path, "unsupported_dtype", what, "Convert it again with `--outtype f16`, `bf16` or `f32`")
        places[name] = (_DTYPES[kind], tuple(reversed(sides)), offset)
    begin = -(-cursor.at // alignment) * alignment
    return {name: _tensor(cursor, name, begin, *place) for name, place in places.items()}


def _tensor(cursor: _Cursor, name: str, begin: int, dtype: str, shape: tuple[int, ...], offset: int) -> Tensor:
    size = math.prod(shape) * {"F16": 2, "BF16": 2, "F32": 4, "F64": 8}[dtype]
    if begin + offset + size > len(cursor.data):
        cursor.broken(f"`{name}` would end at byte {begin + offset + size} of {len(cursor.data)}")
    return tensor_at(cursor.path, cursor.data, dtype, shape, begin + offset)


class _Cursor:
    """A place in the file that moves on with each value that is read."""

    def __init__(self, path: Path, data: NDArray[np.uint8]) -> None:
        self.path = path
        self.data = data
        self.at = 0

    def broken(self, what: str) -> NoReturn:
        refuse(self.path, "bad_header", f"contradicts itself: {what}", "Copy or download the file again")

    def take(self, size: int) -> bytes:
        if size > len(self.data) - self.at:
            self.broken(f"it ends at byte {len(self.data)}, within its header")
        self.at += size
        return self.data[self.at - size : self.at].tobytes()

    def number(self, form: str) -> Any:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def text(self) -> str:
        size = self.number("<Q")
        if size > _MAX_TEXT:
            self.broken(f"a text would have {size} bytes")
        try:
            return self.take(size).decode("utf-8")
        except UnicodeDecodeError:
            self.broken("a text is not UTF-8")

    def value(self, kind: int) -> Any:
        if kind == _TEXT:
            return self.text()
        if kind == _ARRAY:
            kind, count = self.number("<I"), self.number("<Q")
            if kind == _ARRAY or count > MAX_ITEMS:
                self.broken(f"an array has {count} items of type {kind}")
            return [self.value(kind) for _ in range(count)]
        if kind >= len(_SCALARS):
            self.broken(f"a value has the unknown type {kind}")
        return self.number(_SCALARS[kind])
