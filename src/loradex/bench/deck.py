"""The model and adapters that a run is made on: a folder with `base/` and `adapters/CLASS/NUMBER/`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from loradex.bench.checkpoint import write_random
from loradex.bench.shape import AdapterClass, Shape
from loradex.bench.tokenizer import save_tokenizer
from loradex.core.model import LinearShape
from loradex.errors import AdapterInvalid

ALPHA: Final = 16
Tell = Callable[[str, float], None]


def base_folder(model: Path) -> Path:
    """Return the folder of the base model: `model/base` of a deck, or `model` itself."""
    return model / "base" if (model / "base" / "config.json").is_file() else model


def save_base(folder: Path, shape: Shape, seed: int = 0) -> Path:
    """Write a model of that shape with random bf16 weights and a tokenizer; return its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    write_random(folder / "model.safetensors", shape.tensors(), seed, ones=("norm.weight",))
    (folder / "config.json").write_text(json.dumps(shape.config(), indent=2) + "\n", encoding="utf-8")
    ends = {"eos_token_id": 2, "pad_token_id": 0, "do_sample": False}
    (folder / "generation_config.json").write_text(json.dumps(ends) + "\n", encoding="utf-8")
    save_tokenizer(folder, shape.vocabulary, shape.positions)
    return folder


def save_adapter(folder: Path, linears: Mapping[str, LinearShape], kind: AdapterClass, index: int) -> Path:
    """Write adapter number `index` of a class, with random A and B: a zero B would hide work; return its folder.

    Raises:
        AdapterInvalid: the base has none of the class's modules.
    """
    rank = kind.rank(index)
    tensors: dict[str, tuple[int, ...]] = {}
    for module, linear in linears.items():
        if module.rpartition(".")[2] in kind.modules:
            tensors[f"base_model.model.{module}.lora_A.weight"] = (rank, linear.in_features)
            tensors[f"base_model.model.{module}.lora_B.weight"] = (linear.out_features, rank)
    if not tensors:
        raise AdapterInvalid(f"This base has none of the modules {', '.join(kind.modules)}", hint="Use another model")
    folder.mkdir(parents=True, exist_ok=True)
    write_random(folder / "adapter_model.safetensors", tensors, 1000 + index)
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": rank,
        "lora_alpha": ALPHA,
        "lora_dropout": 0.0,
        "bias": "none",
        "inference_mode": True,
        "target_modules": list(kind.modules),
        "base_model_name_or_path": "",
    }
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return folder


def adapter_folders(
    model: Path, kind: AdapterClass, count: int, linears: Mapping[str, LinearShape], spare: Path, tell: Tell
) -> Sequence[Path]:
    """Return `count` adapters of a class: those that lie in the deck, then new ones under `spare`."""
    own = sorted((model / "adapters" / kind.name).glob("*/adapter_config.json"))
    folders = [config.parent for config in own[:count]]
    for index in range(len(folders), count):
        tell("adapters", (index + 1) / count)
        folders.append(save_adapter(spare / kind.name / f"{index:04}", linears, kind, index))
    return folders


def save_adapters(model: Path, shape: Shape, kind: AdapterClass, count: int, tell: Tell) -> Sequence[Path]:
    """Write the first `count` adapters of a class into a deck, those that lie there already left out."""
    return adapter_folders(model, kind, count, shape.linears(), model / "adapters", tell)
