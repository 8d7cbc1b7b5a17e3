"""Which format lies at a path. PEFT comes first: what it saved is taken as it is."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from loradex.adapters.files import CONFIG, WEIGHTS, AdapterFiles, find_files
from loradex.errors import FilesNotFound

Format = Literal["peft", "edge", "gguf", "nemo"]

EDGE_WEIGHTS: Final = "processed_adapter_model.safetensors"
EDGE_CONFIG: Final = "config.json"

NEMO_CONFIG: Final = "model_config.yaml"

_BY_SUFFIX: Final[Mapping[str, Format]] = {".gguf": "gguf", ".nemo": "nemo"}
_NEMO_WEIGHTS = re.compile(r"(?:(?:mp_rank_\d{2}|tp_rank_\d{2}_pp_rank_\d{3})/)?model_weights\.ckpt")


@dataclass(frozen=True, slots=True)
class ForeignFiles:
    """The files of an adapter in another format than PEFT's.

    Attributes:
        format: which one.
        folder: the folder or the file that was named.
        parts: where each file lies, by the name under which its reader looks for it.
    """

    format: Format
    folder: Path
    parts: Mapping[str, Path]


def find_adapter(path: Path) -> AdapterFiles | ForeignFiles:
    """Find the files of the adapter at a path: a folder, or one `.gguf`, `.nemo` or `.safetensors` file.

    A `.safetensors` file under any name but PEFT's own is taken for one of TensorRT-Edge-LLM.

    Raises:
        FilesNotFound: saying what is missing.
    """
    try:
        found = _foreign_file(path) if path.is_file() else _foreign_folder(path) if path.is_dir() else None
        if not path.exists() and any((path.parent / name).is_file() for name in (CONFIG, EDGE_WEIGHTS)):
            hint = f"Give its folder, {path.parent}, which holds an adapter"
            raise FilesNotFound(f"No adapter at {path}: it does not exist", hint=hint)
    except (OSError, ValueError) as error:  # a name too long, a null byte, no permission
        raise FilesNotFound(f"No adapter at {str(path)[:200]!r}: {error}") from error
    return found or find_files(path.parent if path.name == WEIGHTS and path.is_file() else path)


def _foreign_file(path: Path) -> ForeignFiles | None:
    if path.suffix == ".safetensors":
        own = path.name == WEIGHTS
        return None if own else ForeignFiles("edge", path, _edge_parts(path.parent) | {EDGE_WEIGHTS: path})
    form = _BY_SUFFIX.get(path.suffix.lower())
    return ForeignFiles(form, path, {path.name: path}) if form else None


def _foreign_folder(folder: Path) -> ForeignFiles | None:
    try:
        find_files(folder)
    except FilesNotFound:
        pass
    else:
        return None
    if (folder / EDGE_WEIGHTS).is_file():
        return ForeignFiles("edge", folder, _edge_parts(folder))
    if (folder / NEMO_CONFIG).is_file():
        found = [*folder.glob("model_weights.ckpt"), *folder.glob("*_rank_*/model_weights.ckpt")]
        names = {path.relative_to(folder).as_posix(): path for path in sorted(found) if path.is_file()}
        weights = {name: path for name, path in names.items() if _NEMO_WEIGHTS.fullmatch(name)}
        if weights:
            return ForeignFiles("nemo", folder, {NEMO_CONFIG: folder / NEMO_CONFIG, **weights})
    files = [each for each in sorted(folder.iterdir()) if each.suffix.lower() in _BY_SUFFIX and each.is_file()]
    if len(files) > 1:
        listed = ", ".join(each.name for each in files[:5])
        raise FilesNotFound(f"{folder} holds {len(files)} adapters: {listed}", hint="Give one of these files")
    return ForeignFiles(_BY_SUFFIX[files[0].suffix.lower()], folder, {files[0].name: files[0]}) if files else None


def _edge_parts(folder: Path) -> dict[str, Path]:
    return {name: folder / name for name in (EDGE_WEIGHTS, EDGE_CONFIG) if (folder / name).is_file()}
