"""Safetensors files, read as maps and written tensor by tensor: a large adapter needs little memory."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from loradex.adapters.formats.refusal import refuse
from loradex.adapters.formats.tensor import HELD, Tensor, file_bytes, tensor_at
from loradex.adapters.header import read_header


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file, which must not change while they are used.

    Raises:
        AdapterInvalid: it is no safetensors file, or holds a tensor that is no float of 16, 32 or 64 bits.
        FilesNotFound: it cannot be opened.
    """
    header = read_header(path)
    for name, info in header.tensors.items():
        if info.dtype not in HELD:
            fix = "Save the adapter in float32, bfloat16 or float16"
            refuse(path, "unsupported_dtype", f"holds `{name}` in dtype {info.dtype}", fix)
    data = file_bytes(path)
    return {name: tensor_at(path, data, info.dtype, info.shape, info.start) for name, info in header.tensors.items()}


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], rest: Callable[[], None] = lambda: None) -> None:
    """Write a new file: equal tensors give equal bytes. `rest` is called after every few MiB.

    Raises:
        OSError: the file is there already, or the disk refuses.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, tensor in sorted(tensors.items()):
        entry = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [at, at + tensor.nbytes]}
        header[name] = entry
        at += tensor.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # so that the tensors are aligned
    with path.open("xb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, tensor in sorted(tensors.items()):
            for piece in tensor.pieces():
                file.write(piece)
                rest()
