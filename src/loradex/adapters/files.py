"""Where the files of an adapter lie in the folder that a user names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from loradex.adapters.tokenizer import tokenizer_files
from loradex.errors import FilesNotFound

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PICKLED = "adapter_model.bin"

MAX_WEIGHTS_BYTES = 16 << 30
MAX_CONFIG_BYTES = 1 << 20

# What else lies in folders that are not PEFT adapters, and what it means.
_OTHERS = (
    ("config.json", "This is a whole model: serve it with `loradex serve`, or give its adapter's folder"),
    ("model_weights.ckpt", "This is a NeMo checkpoint; give the folder that also holds its model_config.yaml"),
    ("context/model.yaml", "This is a checkpoint of NeMo 2: export it there as `hf-peft`, and give that"),
    ("run_config.yaml", "This is a checkpoint of Megatron-Bridge: export its adapter as PEFT there, and give that"),
    ("trainer_state.json", "This is a training checkpoint without an adapter; give the folder that PEFT saved"),
)


@dataclass(frozen=True, slots=True)
class AdapterFiles:
    """The two files of an adapter, in `folder` or linked from there.

    `pickled` marks weights in PyTorch's old format, which are not read by default. `tokenizer` are the files beside
    them that tell of added tokens, by name.
    """

    folder: Path
    config: Path
    weights: Path
    pickled: bool
    tokenizer: Mapping[str, Path] = field(default_factory=dict)


def find_files(folder: Path) -> AdapterFiles:
    """Find configuration and weights in `folder`, or in its only sub-folder that is an adapter.

    PEFT saves an adapter under a name other than `default` in a sub-folder of that name.

    Raises:
        FilesNotFound: saying what is missing.
    """
    try:
        if not folder.is_dir():
            what = "is a file, not a folder" if folder.is_file() else "does not exist"
            raise FilesNotFound(f"No adapter at {folder}: it {what}")
        home = _adapter_folder(folder)
        for name, pickled in ((WEIGHTS, False), (PICKLED, True)):
            if (home / name).is_file():
                return AdapterFiles(home, home / CONFIG, home / name, pickled, tokenizer_files(home))
    except (OSError, ValueError) as error:  # a name too long, a null byte, no permission
        raise FilesNotFound(f"No adapter at {str(folder)[:200]!r}: {error}") from error
    raise FilesNotFound(f"No adapter at {home}: {WEIGHTS} is missing")


def _adapter_folder(folder: Path) -> Path:
    if (folder / CONFIG).is_file():
        return folder
    inner = sorted(child for child in folder.iterdir() if child.is_dir() and (child / CONFIG).is_file())
    if len(inner) == 1:
        return inner[0]
    if inner:
        names = ", ".join(child.name for child in inner[:5])
        raise FilesNotFound(f"{folder} holds {len(inner)} adapters: {names}", hint="Give the folder of one of them")
    hint = next((hint for name, hint in _OTHERS if (folder / name).is_file()), None)
    if any((folder / name).is_file() for name in (WEIGHTS, PICKLED)):
        hint = f"Copy {CONFIG} beside the weights: without it neither rank nor scaling is known"
    raise FilesNotFound(f"No adapter at {folder}: {CONFIG} is missing", hint=hint)
