"""Adapters in PyTorch's pickle format, turned into safetensors: only when asked, and without running their code."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

from loradex.errors import AdapterInvalid, MissingExtra, Problem

# What torch lets through when the file is not what it expects.
_BROKEN = (pickle.UnpicklingError, EOFError, RuntimeError, ValueError, TypeError, LookupError, AttributeError)


def convert(source: Path, target: Path) -> None:
    """Write the tensors of a `.bin` file as safetensors, always the same bytes for the same tensors.

    `torch.load(weights_only=True)` builds tensors and plain containers and refuses everything else.

    Raises:
        MissingExtra: torch is not installed.
        AdapterInvalid: the file holds anything but a table of named tensors.
        OSError: a file cannot be read or written.
    """
    try:
        import torch
        from safetensors.torch import save_file
    except ImportError as error:
        raise MissingExtra("PyTorch, which reads .bin adapters,", "local") from error
    try:
        found: Any = torch.load(source, map_location="cpu", weights_only=True)
    except _BROKEN as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise _invalid(source, f"cannot be read as tensors alone: {reason[:200]}") from error
    if not isinstance(found, dict) or not found:
        raise _invalid(source, "does not hold a table of named tensors")
    for name, tensor in found.items():
        if not isinstance(name, str) or not isinstance(tensor, torch.Tensor) or tensor.layout is not torch.strided:
            raise _invalid(source, f"holds {str(name)[:120]!r}, which is not a dense tensor")
    # Clones share no memory, which safetensors refuses.
    save_file({name: found[name].detach().contiguous().clone() for name in sorted(found)}, target)


def _invalid(source: Path, what: str) -> AdapterInvalid:
    fix = "Save the adapter again with PEFT's `save_pretrained`, which writes safetensors"
    return AdapterInvalid(f"{source} cannot be converted", [Problem("pickle", f"{source.name} {what}", fix)])
