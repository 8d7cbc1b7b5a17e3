"""A pack: the weights of one adapter in one file, in the engine's dtype and layout, ready to be mapped into memory.

    8 bytes    the magic
    8 bytes    length of the header
    32 bytes   BLAKE2 of the header
    header     JSON: digest of the adapter, dtype, layout, size of the file, and where each tensor lies
    tensors    each at the start of a page; offsets count values from the first tensor

A pack is written once and never changed, and `guard.py` sees to it that nobody else changes it while it is mapped; in
doubt it is made again from the adapter's own files, which stay the truth.
"""

from __future__ import annotations

import hashlib
import json
import math
import mmap
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch

from loradex.adapters.adapter import Adapter
from loradex.engine.local.guard import Guard
from loradex.engine.local.lora import LoraPair
from loradex.engine.local.weights import Contents, Stored, by_module, open_weights

LAYOUT = 2
"""Goes up whenever the layout of pairs or the header changes; packs of other layouts are not looked at."""

SLICE_VALUES = 1 << 15
"""Above so many values torch would call other threads to help, and they are busy with answers."""

Rest = Callable[[float], None]
"""Called after every bit of work with the share that is done, so that whoever computes answers is let in between."""

_MAGIC = b"LORAPACK"
_PREFIX = len(_MAGIC) + 8 + 32
_PAGE = 4096


class BadPack(Exception):
    """The file is not the pack that it should be."""


def write_pack(file: BinaryIO, adapter: Adapter, dtype: torch.dtype, rest: Rest) -> None:
    """Convert an adapter's weights, slice by slice, into an empty file.

    Raises:
        AdapterDamaged: the adapter's own file is gone, or not what it was.
        OSError: the disk refuses.
    """
    tensors: list[Stored] = []
    layers: list[tuple[str, float, int, list[int], int, list[int]]] = []
    extras: list[tuple[str, str, int, list[int]]] = []
    offset = 0

    def place(tensor: Stored) -> int:
        nonlocal offset
        begin, offset = offset, offset + _padded(math.prod(tensor.shape) * dtype.itemsize) // dtype.itemsize
        tensors.append(tensor)
        rest(0.0)
        return begin

    with open_weights(adapter) as weights:
        for layer, a, b in weights.pairs():
            layers.append((layer.module, layer.scaling, place(a), list(a.shape), place(b), list(b.shape)))
        for extra, tensor in weights.extras():
            extras.append((extra.module, extra.role, place(tensor), list(tensor.shape)))
        _write_header(file, adapter.digest, dtype, {"layers": layers, "extras": extras}, offset * dtype.itemsize)
        size = file.tell() + offset * dtype.itemsize
        for tensor in tensors:
            for piece in _pieces(tensor.read()):
                values = piece.to(dtype).contiguous().view(torch.uint8).numpy().data
                file.write(values)
                rest(file.tell() / size)
            file.write(bytes(-file.tell() % _PAGE))
    file.flush()


@dataclass(frozen=True, slots=True)
class Pack:
    """What a pack holds: all weights in one row, and where each pair and each tensor beside the pairs lies in it.

    `data` is a view of the file in the page cache, or a copy.
    """

    data: torch.Tensor
    layers: Sequence[Any]
    extras: Sequence[Any]

    def copied(self, *, pinned: bool) -> Pack:
        """Return a copy on the heap; `pinned` for one that a GPU reads directly, at its full speed."""
        data = torch.empty_like(self.data, pin_memory=pinned)
        return Pack(data.copy_(self.data), self.layers, self.extras)

    def contents(self, device: torch.device) -> Contents:
        """Return the tensors by module path; on the CPU they are views of `data`."""
        data = self.data.to(device)
        pairs = {
            module: LoraPair(_view(data, begin_a, shape_a), _view(data, begin_b, shape_b), scaling)
            for module, scaling, begin_a, shape_a, begin_b, shape_b in self.layers
        }
        extras = ((module, role, _view(data, begin, shape)) for module, role, begin, shape in self.extras)
        return Contents(pairs, by_module(extras))


def read_ahead(path: Path) -> None:
    """Tell the disk to bring a file into the page cache, without waiting for it.

    Raises:
        FileNotFoundError: there is none.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        _read_ahead(file)


def open_pack(path: Path, digest: str, dtype: torch.dtype, guard: Guard) -> Pack:
    """Return a pack, as a view of the file in the page cache; the guard sees to it that it stays what it is.

    Raises:
        FileNotFoundError: there is none.
        BadPack: it is damaged, or another adapter's.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        _read_ahead(file)
        try:
            # Private memory: torch wants it to be writable, and the file must never be written.
            memory = guard.map(file)
        except ValueError as error:
            raise BadPack("it is empty") from error
    header, start = _read_header(memory)
    expected = {"digest": digest, "dtype": _name(dtype), "layout": LAYOUT, "size": len(memory)}
    if wrong := [key for key, value in expected.items() if header.get(key) != value]:
        raise BadPack(f"its {' and '.join(wrong)} is not as expected")
    if start == len(memory):
        return Pack(torch.empty(0, dtype=dtype), (), ())
    data = torch.frombuffer(memory, dtype=dtype, offset=start)
    data[:: _PAGE // dtype.itemsize].sum()  # brings the pages in, so that no step waits for them
    return Pack(data, header["layers"], header["extras"])


def pack_name(dtype: torch.dtype) -> tuple[str, int]:
    """Return what tells packs of one adapter apart: dtype and layout."""
    return _name(dtype), LAYOUT


def _read_ahead(file: BinaryIO) -> None:
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)


def _write_header(file: BinaryIO, digest: str, dtype: torch.dtype, places: dict[str, Any], data_bytes: int) -> None:
    header = {"digest": digest, "dtype": _name(dtype), "layout": LAYOUT, **places, "size": 0}
    # The size stands in the header whose length it depends on; blanks at the end leave room for its digits.
    room = _padded(_PREFIX + len(json.dumps(header)) + 20)
    header["size"] = room + data_bytes
    text = json.dumps(header).encode().ljust(room - _PREFIX)
    file.write(_MAGIC + len(text).to_bytes(8, "little") + hashlib.blake2b(text, digest_size=32).digest() + text)


def _read_header(memory: mmap.mmap) -> tuple[dict[str, Any], int]:
    """Return the header and where the tensors begin."""
    length = int.from_bytes(memory[8:16], "little")
    if memory[:8] != _MAGIC or _PREFIX + length > len(memory):
        raise BadPack("it does not begin as a pack")
    text = memory[_PREFIX : _PREFIX + length]
    if hashlib.blake2b(text, digest_size=32).digest() != memory[16:_PREFIX]:
        raise BadPack("its header is damaged")
    header: dict[str, Any] = json.loads(text)
    return header, _PREFIX + length


def _view(data: torch.Tensor, begin: int, shape: list[int]) -> torch.Tensor:
    return data[begin : begin + math.prod(shape)].view(shape)


def _pieces(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    """Yield a tensor in runs of whole rows, each small enough for one thread."""
    step = max(1, SLICE_VALUES // math.prod(tensor.shape[1:]))
    return (tensor[row : row + step] for row in range(0, tensor.shape[0], step))


def _padded(size: int) -> int:
    return -(-size // _PAGE) * _PAGE


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
