"""Files of `torch.save` without torch: a zip archive of stored members, a pickle that describes and storages that hold.

(PyTorch's `torch/serialization.py`; the format before PyTorch 1.6, a row of pickles, is refused by name.)
"""

from __future__ import annotations

import math
import pickle
import struct
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NoReturn

import numpy as np

from loradex.adapters.formats.mapped import Mapped
from loradex.adapters.formats.refusal import refuse
from loradex.adapters.formats.tensor import HELD, MAX_TENSOR_BYTES, Tensor
from loradex.adapters.formats.torch_pickle import BadPickle, Strided, load_pickle
from loradex.adapters.listing import printable

MAX_MEMBERS: Final = 1 << 17
_AGAIN: Final = "Save it again with PEFT's `save_pretrained`, which writes safetensors"
_STORAGES: Final = {"F32": "FloatStorage", "F16": "HalfStorage", "BF16": "BFloat16Storage", "F64": "DoubleStorage"}
_LOCAL_HEADER: Final = struct.Struct("<4s22xHH")


class TorchFile:
    """One archive: `value` is what was saved, its tensors as `Strided`, which `tensor` maps."""

    def __init__(self, file: Mapped, records: Mapping[str, frozenset[str]] | None = None) -> None:
        """Open an archive, which must not change while its tensors are used.

        Raises:
            AdapterInvalid: it is none, or holds more than data.
        """
        self._file = file
        try:
            with zipfile.ZipFile(file) as archive:
                self._members = {info.filename: info for info in archive.infolist()}
        except (zipfile.BadZipFile, ValueError, NotImplementedError, struct.error, EOFError, OSError) as error:
            if file.part(0, 1).read() == b"\x80":
                self._refuse("is in the format before PyTorch 1.6, or a bare pickle: it is not opened")
            self._refuse(f"is no archive of torch.save: {printable(str(error))}")
        pickles = [name for name in self._members if name.endswith("/data.pkl")]
        if len(pickles) != 1 or len(self._members) > MAX_MEMBERS:
            self._refuse(f"is no archive of torch.save: it holds {len(pickles)} pickles")
        self._folder = pickles[0].removesuffix("data.pkl")
        order = self._members.get(self._folder + "byteorder")
        if order is not None and self._bytes(order.filename).read() != b"little":
            self._refuse("was written on a big-endian machine")
        try:
            self.value: Any = load_pickle(self._bytes(pickles[0]).read(), records)
        except BadPickle as error:
            self._refuse(f"holds a pickle that {printable(str(error))}")
        except ValueError:
            self._refuse("holds a pickle of many MB, which describes more than an adapter")

    def tensor(self, found: Strided) -> Tensor:
        """Return a tensor as a view of the file.

        Raises:
            AdapterInvalid: it lies outside its storage, or is larger than `MAX_TENSOR_BYTES`.
        """
        kind = np.dtype(HELD[found.storage.dtype])
        held = self._bytes(f"{self._folder}data/{found.storage.key}").data
        held = held[: len(held) // kind.itemsize * kind.itemsize].view(kind)
        last = found.offset + sum((side - 1) * step for side, step in zip(found.shape, found.strides, strict=True))
        if not math.prod(found.shape):
            return Tensor(found.storage.dtype, np.zeros([min(side, 1) for side in found.shape], kind))
        # More values than the storage has would repeat them without end.
        if last >= len(held) or math.prod(found.shape) > len(held):
            self._refuse(f"holds a tensor {list(found.shape)} that lies outside its storage of {len(held)} values")
        if math.prod(found.shape) * kind.itemsize > MAX_TENSOR_BYTES:
            self._refuse(f"holds a tensor {list(found.shape)}, above the limit of {MAX_TENSOR_BYTES >> 30} GiB")
        steps = [step * kind.itemsize for step in found.strides]
        return Tensor(
            found.storage.dtype,
            np.lib.stride_tricks.as_strided(held[found.offset :], found.shape, steps, writeable=False),
        )

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors of a saved state dict by name; what torch keeps beside them as None is left out.

        Raises:
            AdapterInvalid: something else was saved.
        """
        table = self.value
        if not isinstance(table, dict) or not table:
            self._refuse("does not hold a table of named tensors")
        found = {}
        for name, value in table.items():
            if value is None and isinstance(name, str) and name.endswith("._extra_state"):
                continue
            if not isinstance(name, str) or not name.isprintable() or not isinstance(value, Strided):
                self._refuse(f"holds `{printable(str(name)[:160])}`, which is not a dense tensor")
            found[name] = self.tensor(value)
        return found

    def _bytes(self, name: str) -> Mapped:
        info = self._members.get(name)
        if info is None:
            self._refuse(f"lacks its member `{printable(name)}`")
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
            self._refuse(f"holds `{printable(name)}` compressed, which torch.save never does")
        magic, text, extra = _LOCAL_HEADER.unpack(self._file.part(info.header_offset, _LOCAL_HEADER.size).read())
        if magic != b"PK\3\4":
            self._refuse("has a table of contents that leads elsewhere")
        return self._file.part(info.header_offset + _LOCAL_HEADER.size + text + extra, info.file_size)

    def _refuse(self, what: str) -> NoReturn:
        refuse(self._file.path, "pickle", what, _AGAIN)


def write_torch_file(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a new file that `torch.load` reads as a dict of tensors; equal tensors give equal bytes.

    Raises:
        OSError: the file is there already, or the disk refuses.
    """
    with zipfile.ZipFile(path, "x", zipfile.ZIP_STORED) as archive:
        archive.writestr(_member("data.pkl"), _described(tensors))
        archive.writestr(_member("byteorder"), b"little")
        for index, tensor in enumerate(tensors.values()):
            with archive.open(_member(f"data/{index}"), "w", force_zip64=True) as file:
                for piece in tensor.pieces():
                    file.write(piece)
        archive.writestr(_member("version"), b"3\n")


def _member(name: str) -> zipfile.ZipInfo:
    return zipfile.ZipInfo(f"model_weights/{name}")  # always of the same day, in 1980


def _described(tensors: Mapping[str, Tensor]) -> bytes:
    parts = [pickle.PROTO, b"\2", pickle.EMPTY_DICT, pickle.MARK]
    for index, (name, tensor) in enumerate(tensors.items()):
        strides = [math.prod(tensor.shape[axis + 1 :]) for axis in range(len(tensor.shape))]
        parts += [_text(name), b"ctorch._utils\n_rebuild_tensor_v2\n", pickle.MARK, pickle.MARK, _text("storage")]
        parts += [f"ctorch\n{_STORAGES[tensor.dtype]}\n".encode(), _text(str(index)), _text("cpu")]
        parts += [_number(tensor.values.size), pickle.TUPLE, pickle.BINPERSID, _number(0)]
        parts += [*_sizes(tensor.shape), *_sizes(strides), pickle.NEWFALSE]
        parts += [b"ccollections\nOrderedDict\n", pickle.EMPTY_TUPLE, pickle.REDUCE, pickle.TUPLE, pickle.REDUCE]
    return b"".join((*parts, pickle.SETITEMS, pickle.STOP))


def _text(value: str) -> bytes:
    return pickle.BINUNICODE + struct.pack("<I", len(value.encode())) + value.encode()


def _number(value: int) -> bytes:
    if value < 2**31:
        return pickle.BININT + struct.pack("<i", value)
    return pickle.LONG1 + b"\x08" + struct.pack("<q", value)


def _sizes(values: Any) -> Iterator[bytes]:
    yield pickle.MARK
    yield from map(_number, values)
    yield pickle.TUPLE
