"""Adapters in PyTorch's pickle format, turned into safetensors: only when asked, and without running their code."""

from __future__ import annotations

from pathlib import Path

from loradex.adapters.formats.mapped import Mapped
from loradex.adapters.formats.safetensors_file import write_safetensors
from loradex.adapters.formats.torch_file import TorchFile


def convert(source: Path, target: Path) -> None:
    """Write the tensors of a `.bin` file as safetensors, always the same bytes for the same tensors.

    Raises:
        AdapterInvalid: the file holds anything but a table of named float tensors.
        OSError: a file cannot be read or written.
    """
    write_safetensors(target, TorchFile(Mapped.whole(source)).tensors())
