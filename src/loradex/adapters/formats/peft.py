"""PEFT's own files, the canonical form: every other format is read into it and written from it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from loradex.adapters.files import CONFIG, WEIGHTS, find_files
from loradex.adapters.formats.initial import Told, initial_pairs, without_initial
from loradex.adapters.formats.lora import Lora, Pair
from loradex.adapters.formats.safetensors_file import read_safetensors, write_safetensors
from loradex.adapters.keys import Key, kind
from loradex.adapters.listing import listed
from loradex.adapters.read import examine
from loradex.errors import AdapterInvalid, Problem

# What a pair says by itself, or what has no part in inference; any other option that is set goes with the pairs.
_SAID_BY_PAIRS = frozenset(
    (
        *("peft_type", "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision"),
        *("inference_mode", "r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern", "target_modules"),
        *("exclude_modules", "layers_to_transform", "layers_pattern", "lora_dropout", "fan_in_fan_out", "bias"),
        *("init_lora_weights", "runtime_config", "ensure_weight_tying", "qalora_group_size", "megatron_config"),
        *("megatron_core", "loftq_config", "eva_config", "corda_config", "lora_ga_config"),
    )
)


def read_peft(
    folder: Path, base: Path | None = None, initial: Path | None = None, told: Told = lambda share: None
) -> Lora:
    """Read an adapter as PEFT saves it.

    One whose training began on changed base weights is made plain, which takes the folder of the base or that of the
    adapter as it was before training; `told` is told how much of that is done, from 0 to 1.

    Raises:
        FilesNotFound: there is none in the folder.
        AdapterInvalid: it cannot be served as it is, or is more than low-rank pairs; lists every reason.
    """
    lora, method = _read(folder, plain=base is None and initial is None)
    if initial is not None:
        return without_initial(lora, _read(initial, plain=False)[0].pairs)
    return without_initial(lora, initial_pairs(lora, method, base, told)) if method and base is not None else lora


def _read(folder: Path, *, plain: bool) -> tuple[Lora, str]:
    """Return the pairs, and how training began if that was on changed base weights, which `plain` refuses."""
    files = find_files(folder)
    found = examine(files)
    changed = not plain and any(problem.code == "changed_base" for problem in found.problems)
    problems = [problem for problem in found.problems if not (changed and problem.code == "changed_base")]
    if problems or found.config is None:
        raise AdapterInvalid(f"The adapter at {folder} cannot be converted", problems)
    tensors = read_safetensors(files.weights)
    layers = {module: layer for module, layer in found.adapter.layers.items() if not (layer.embedding or layer.experts)}
    pairs = {
        module: Pair(tensors[layer.a], tensors[layer.b], layer.scaling * layer.rank) for module, layer in layers.items()
    }
    known = {name for layer in layers.values() for name in (layer.a, layer.b)}
    if more := [name for name in tensors if name not in known]:
        what = f"{len(more)} tensors are no low-rank pair of a linear, and formats hold nothing else: {listed(more)}"
        problem = Problem("unsupported_tensors", what, "Serve it as it is, or merge it with PEFT's `merge_and_unload`")
        raise AdapterInvalid(f"The adapter at {folder} cannot be converted", [problem])
    raw = found.config.raw
    options = {name: value for name, value in raw.items() if value and name not in _SAID_BY_PAIRS}
    return Lora(pairs, found.config.base_model, options), str(raw["init_lora_weights"]) if changed else ""


def write_peft(lora: Lora, folder: Path, rest: Callable[[], None] = lambda: None) -> None:
    """Write configuration and weights into a folder that has none: equal adapters give equal bytes, thus one digest.

    `rest` is called after every few MiB.

    Raises:
        OSError: a file is there already, or the disk refuses.
    """
    with (folder / CONFIG).open("x", encoding="utf-8") as file:
        json.dump(_config(lora), file, indent=2, sort_keys=True)
        file.write("\n")
    tensors = {}
    for module, pair in lora.pairs.items():
        tensors[str(Key(module, "A"))] = pair.a
        tensors[str(Key(module, "B"))] = pair.b
    write_safetensors(folder / WEIGHTS, tensors, rest)


def _config(lora: Lora) -> dict[str, Any]:
    pairs = lora.pairs
    rank = _usual(pair.rank for pair in pairs.values())
    alpha = _usual(pair.alpha for pair in pairs.values())
    return {
        **lora.options,
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": lora.base_model,
        "inference_mode": True,
        "bias": "none",
        "r": rank or 8,
        "lora_alpha": _short(alpha or 8),
        "target_modules": sorted({kind(module) for module in pairs}),
        "rank_pattern": {_exact(module): pair.rank for module, pair in sorted(pairs.items()) if pair.rank != rank},
        "alpha_pattern": {
            _exact(module): _short(pair.alpha) for module, pair in sorted(pairs.items()) if pair.alpha != alpha
        },
    }


def _usual(values: Any) -> Any:
    found = Counter(values).most_common()
    # Of equally usual ones the smallest, so that the order of the modules has no say.
    return min((value for value, count in found if count == found[0][1]), default=None)


def _exact(module: str) -> str:
    return "^" + module


def _short(value: float) -> float:
    return int(value) if value == int(value) else value
