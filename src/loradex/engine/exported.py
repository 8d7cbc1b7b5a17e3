"""An export: a base model with what adapters may do to it, and the limits it was made for, in one folder."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from loradex.adapters.base_model import BUILT, read_model_info
from loradex.adapters.keys import kind
from loradex.core.model import ModelInfo
from loradex.engine.built import Limits
from loradex.engine.made_folder import copy_texts, made_folder
from loradex.errors import ConfigInvalid

EXPORT: Final = "loradex_export.json"


@dataclass(frozen=True, slots=True)
class Exported:
    """What an export wrote.

    Attributes:
        folder: of the export.
        architecture: of the base.
        bytes: of its weights.
        linears: linears that adapters may target, by their last name.
        limits: of adapters and batches.
    """

    folder: Path
    architecture: str
    bytes: int
    linears: dict[str, int]
    limits: Limits


def export(model: Path, out: Path, limits: Limits, tell: Callable[[float], None]) -> Exported:
    """Write an export of the checkpoint in `model`, quantized or not.

    Weights are linked where both folders lie on one disk, else copied.

    Raises:
        ConfigInvalid: there is no model, it cannot be read, or the disk refuses.
        Conflict: something that is no export lies at `out`.
    """
    if (model / BUILT).is_file():
        raise ConfigInvalid(f"{model} is an engine directory", hint="Give the checkpoint that it was built from")
    info = read_model_info(model)
    weights = sorted(file for file in model.glob("model*.safetensors*") if file.is_file())
    with made_folder(out, EXPORT) as folder:
        copy_texts(model, folder, but=frozenset((EXPORT,)))
        for number, file in enumerate(weights, 1):
            _link(file, folder / file.name)
            tell(number / len(weights))
        said = {"limits": asdict(limits), "model": str(model.resolve()), "linears": _targets(info)}
        (folder / EXPORT).write_text(json.dumps(said, indent=2) + "\n", encoding="utf-8")
    size = sum((out / file.name).stat().st_size for file in weights)
    return Exported(out, info.architecture, size, dict(Counter(map(kind, info.linears))), limits)


def exported_limits(folder: Path) -> Limits:
    """Return the limits of an export; none for a plain checkpoint.

    Raises:
        ConfigInvalid: they cannot be read.
    """
    path = folder / EXPORT
    if not path.is_file():
        return Limits()
    try:
        return Limits.read(json.loads(path.read_text(encoding="utf-8"))["limits"])
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise ConfigInvalid(f"{path} cannot be read: {error!r}", hint="Export the model again") from error


def _targets(info: ModelInfo) -> dict[str, Any]:
    return {name: [shape.in_features, shape.out_features] for name, shape in info.linears.items()}


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source.resolve(), target)
    except OSError:  # another disk, or one without links
        shutil.copyfile(source, target)
