"""TensorRT-Edge-LLM's processed adapters: what its `process-lora` makes of PEFT, and its runtime binds to an engine.

`processed_adapter_model.safetensors` in float16, with A as `[in_features, rank]`, B as `[rank, out_features]`, the
scaling already in B, and names without PEFT's prefix. Beside it lies `config.json`, a copy of PEFT's, whose alpha must
not be applied again. (TensorRT-Edge-LLM 0.10, `tensorrt_edgellm/lora/lora.py`.)
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from loradex.adapters.files import MAX_CONFIG_BYTES
from loradex.adapters.formats.detect import EDGE_CONFIG, EDGE_WEIGHTS
from loradex.adapters.formats.lora import Lora, Pair
from loradex.adapters.formats.refusal import refuse
from loradex.adapters.formats.safetensors_file import read_safetensors, write_safetensors
from loradex.adapters.formats.tensor import Tensor, narrowed
from loradex.adapters.listing import listed
from loradex.core.model import ModelInfo
from loradex.errors import AdapterInvalid, Problem

_NAME = re.compile(r"(?P<module>.+)\.lora_(?P<side>[AB])\.weight")
_INNER: Final = "model."
_DROPPED = re.compile(r"(?:^|\.)(?:norm|[^.]*_norm|[^.]*layernorm|lm_head)(?:\.|$)")

# Under these options one factor for all of B is wrong, and it is all that `process-lora` computes.
_MISREAD = ("use_rslora", "rank_pattern", "alpha_pattern", "use_dora")

_FROM_PEFT = "Convert the PEFT adapter from which it was made: `loradex adapter convert PATH --to edge`"


def read_edge(parts: Mapping[str, Path], base: ModelInfo | None) -> Lora:
    """Read a processed adapter: `parts` holds its weights, and its `config.json` where there is one.

    Raises:
        AdapterInvalid: it is no such adapter, or was made by a rule that changes what it answers.
    """
    path = parts[EDGE_WEIGHTS]
    config = _config(parts.get(EDGE_CONFIG))
    if wrong := [option for option in _MISREAD if config.get(option)]:
        what = f"was made from an adapter with {listed(wrong)}, which TensorRT-Edge-LLM's own tool scales wrongly"
        refuse(path, "unsupported_option", what, _FROM_PEFT)
    sides: dict[str, dict[str, Tensor]] = {}
    strange = []
    for name, tensor in read_safetensors(path).items():
        match = _NAME.fullmatch(name)
        if match is None or len(tensor.shape) != 2:
            strange.append(name)
        else:
            sides.setdefault(match["module"], {})[match["side"]] = tensor
    if strange:
        refuse(path, "unsupported_tensors", f"holds what is no low-rank pair: {listed(strange)}", _FROM_PEFT)
    if lonely := [module for module, pair in sides.items() if len(pair) < 2]:
        refuse(path, "missing_half", f"has only one half of {listed(lonely)}", _FROM_PEFT)
    pairs = {_module(module, base): _pair(path, module, pair["A"], pair["B"]) for module, pair in sides.items()}
    named = config.get("base_model_name_or_path")
    return Lora(pairs, named if isinstance(named, str) and named.isprintable() else None)


def write_edge(lora: Lora, folder: Path) -> list[str]:
    """Write a processed adapter into an empty folder; return what changed on the way.

    Raises:
        AdapterInvalid: the format cannot hold it; lists every reason.
        OSError: the disk refuses.
    """
    problems = _unsayable(lora)
    tensors: dict[str, Tensor] = {}
    rounded, large = [], []
    for module, pair in lora.pairs.items():
        stem = module if module.startswith(_INNER) else _INNER + module
        for side, tensor, factor in (("A", pair.a, 1.0), ("B", pair.b, pair.scaling)):
            half, exact = _halved(tensor, factor)
            name = f"{stem}.lora_{side}.weight"
            tensors[name] = half.transposed()
            rounded += [] if exact else [name]
            large += [] if np.isfinite(half.values).all() else [name]
    if large:
        what = f"Values are too large for float16, the only dtype of its engines: {listed(large)}"
        problems.append(Problem("unsupported_dtype", what, "Serve the PEFT adapter itself"))
    if problems:
        raise AdapterInvalid("TensorRT-Edge-LLM cannot hold this adapter", problems)
    write_safetensors(folder / EDGE_WEIGHTS, tensors)
    (folder / EDGE_CONFIG).write_text(json.dumps(_config_for(lora), indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return [f"{len(rounded)} of {len(tensors)} tensors were rounded to float16"] if rounded else []


def _pair(path: Path, module: str, a: Tensor, b: Tensor) -> Pair:
    rank = a.shape[1]
    if b.shape[0] != rank or not rank:
        what = f"has pairs that do not fit together: A {list(a.shape)} and B {list(b.shape)} at `{module}`"
        refuse(path, "bad_pair", what, "A must be [inputs, rank] and B [rank, outputs]; process the adapter again")
    if rank in (a.shape[0], b.shape[1]):
        # `process-lora` does not turn a square matrix, so nobody can say which way it lies.
        refuse(path, "ambiguous", f"has as many inputs or outputs as ranks at `{module}`", _FROM_PEFT)
    return Pair(a.transposed(), b.transposed(), float(rank))


def _module(module: str, base: ModelInfo | None) -> str:
    short = module.removeprefix(_INNER)
    return short if base is not None and module not in base.linears and short in base.linears else module


def _config(path: Path | None) -> Mapping[str, Any]:
    if path is None:
        return {}
    try:
        with path.open("rb") as file:
            found = json.loads(file.read(MAX_CONFIG_BYTES))
    except (ValueError, RecursionError) as error:
        refuse(path, "bad_config", f"is not JSON: {error}", "Copy the adapter's adapter_config.json there")
    return found if isinstance(found, dict) else {}


def _unsayable(lora: Lora) -> list[Problem]:
    fix = "Serve the PEFT adapter itself, or train without it"
    problems = []
    if lora.options:
        problems.append(Problem("unsupported_option", f"It has no room for {listed(sorted(lora.options))}", fix))
    if dropped := [module for module in lora.pairs if _DROPPED.search(module)]:
        what = f"Its engines have no input for norms and the output head: {listed(dropped)}"
        problems.append(Problem("unsupported_tensors", what, fix))
    if square := [module for module, pair in lora.pairs.items() if pair.rank in (pair.a.shape[1], pair.b.shape[0])]:
        what = f"Square matrices cannot be told from turned ones there: {listed(square)}"
        problems.append(Problem("ambiguous", what, fix))
    return problems


def _halved(tensor: Tensor, factor: float) -> tuple[Tensor, bool]:
    if tensor.dtype == "F16" and factor == 1.0:
        return tensor, True
    wide = tensor.widened() * factor
    half = narrowed(wide, "F16")
    return half, bool(np.array_equal(half.widened(), wide))


def _config_for(lora: Lora) -> dict[str, Any]:
    """Say the scaling as the weights have it, so that whoever applies alpha again changes nothing."""
    ranks: Iterable[int] = {pair.rank for pair in lora.pairs.values()}
    rank = max(ranks, default=8)
    said = {"peft_type": "LORA", "base_model_name_or_path": lora.base_model, "r": rank, "lora_alpha": rank}
    return {**said, "target_modules": sorted({module.rpartition(".")[2] for module in lora.pairs})}
