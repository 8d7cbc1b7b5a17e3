"""Which files of a larger place belong to an adapter: repositories hold optimizers and whole models too."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Final

from loradex.adapters.files import PICKLED, WEIGHTS
from loradex.adapters.formats.detect import EDGE_WEIGHTS

_NAMES: Final = (WEIGHTS, PICKLED, EDGE_WEIGHTS, "model_weights.ckpt")
_SUFFIXES: Final = (".json", ".jinja", ".yaml", ".model", ".txt", ".gguf", ".nemo")


def is_wanted(name: str) -> bool:
    """Return whether the file of this name, with `/` between folders, may belong to an adapter."""
    path = PurePosixPath(name)
    return path.name in _NAMES or path.suffix.lower() in _SUFFIXES
