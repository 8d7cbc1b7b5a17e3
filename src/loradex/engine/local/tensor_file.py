"""Tensors of any dtype in a safetensors file, laid so that kernels can compute where the file is mapped."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open

from loradex.errors import ConfigInvalid

ALIGNED: Final = 64
"""Bytes of a cache line, and of the widest register."""

_NAMES: Final = {
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.int64: "I64",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor], tell: Callable[[float], None]) -> int:
    """Write a new file and have it on disk; return its bytes. `tell` is told the share that is written.

    The format leaves no gaps between tensors, so those whose size is a multiple of `ALIGNED` come first: they are what
    kernels read, and each begins on a cache line.

    Raises:
        OSError: the file is there already, or the disk refuses.
    """
    ordered = sorted(tensors.items(), key=lambda each: (each[1].nbytes % ALIGNED != 0, each[0]))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, tensor in ordered:
        place = [at, at + tensor.nbytes]
        header[name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": place}
        at += tensor.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % ALIGNED)
    size = 8 + len(text) + at
    with path.open("xb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, tensor in ordered:
            file.write(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
            tell(file.tell() / size)
        file.flush()
        os.fsync(file.fileno())
    return size


def map_tensors(path: Path, hint: str) -> dict[str, torch.Tensor]:
    """Return the tensors of a file as views of it in the page cache; the disk is told to read ahead.

    The file must not change while they are used.

    Raises:
        ConfigInvalid: it cannot be read, or is damaged; the hint says how it is made again.
    """
    try:
        with path.open("rb") as file:
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)
        with safe_open(path, framework="pt") as opened:
            return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - it is no mapping
    except (OSError, SafetensorError) as error:
        raise ConfigInvalid(f"{path} cannot be read: {error}", hint=hint) from error
