"""Writes the adapter of a PEFT user for NeMo 1: canonical, on one rank, as `.nemo` archive.

NeMo wants every pair of a target in every layer, so where the adapter has none a pair of zeros stands.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import yaml

from loradex.adapters.formats.detect import NEMO_CONFIG
from loradex.adapters.formats.lora import Lora, Pair
from loradex.adapters.formats.nemo_names import WRITTEN
from loradex.adapters.formats.tensor import HELD, Tensor
from loradex.adapters.formats.torch_file import write_torch_file
from loradex.adapters.listing import listed
from loradex.core.model import ModelInfo
from loradex.errors import AdapterInvalid, Problem

_WEIGHTS: Final = "model_weights.ckpt"
_PEFT: Final = "Serve the PEFT adapter itself"


def write_nemo(lora: Lora, path: Path, base: ModelInfo | None) -> list[str]:
    """Write an archive to `path`, which must not be there yet; return what changed on the way.

    Raises:
        AdapterInvalid: the format cannot hold it; lists every reason.
        OSError: the disk refuses.
    """
    if base is None:
        what = "Its configuration states the heads and layers of the base model"
        raise AdapterInvalid("NeMo needs the base model", [Problem("no_base", what, "Add `--base DIR`")])
    layers = _layers(base)
    _check(lora, base, layers)
    alphas = sorted(pair.alpha for pair in lora.pairs.values())
    alpha = max(alphas, key=alphas.count)
    tensors, widened = {}, 0
    for name, pair in _every(lora, base, layers):
        same = pair.alpha == alpha or not alpha
        b = pair.b if same else pair.b.scaled(pair.alpha / alpha)
        widened += b.dtype != pair.b.dtype
        tensors[f"{name}.linear_in.weight"], tensors[f"{name}.linear_out.weight"] = pair.a, b
    folder = path.parent
    write_torch_file(folder / _WEIGHTS, tensors)
    (folder / NEMO_CONFIG).write_text(yaml.safe_dump(_config(lora, base, layers, alpha), sort_keys=True))
    with tarfile.open(path, "x:", format=tarfile.GNU_FORMAT) as archive:
        for name in (NEMO_CONFIG, _WEIGHTS):
            info = tarfile.TarInfo(f"./{name}")  # of no owner and no day, so that equal adapters give equal bytes
            info.size = (folder / name).stat().st_size
            with (folder / name).open("rb") as file:
                archive.addfile(info, file)
            (folder / name).unlink()
    return [f"B is float32 now in {widened} modules, so as to hold their own scaling"] if widened else []


def _check(lora: Lora, base: ModelInfo, layers: int) -> None:
    problems: list[Problem] = []
    known = [part for parts in WRITTEN.values() for part, _ in parts]
    names = {f"model.layers.{layer}.{part}" for layer in range(layers) for part in known}
    if not names or not names <= set(base.linears):
        what = f"The layers of `{base.architecture}` are not those of a Llama, on which its names are built"
        problems.append(Problem("unsupported_type", what, _PEFT))
    elif unknown := [module for module in lora.pairs if module not in names]:
        problems.append(Problem("unknown_modules", f"NeMo has no place for {listed(unknown)}", _PEFT))
    if lora.options:
        what = f"It has no room for {listed(sorted(lora.options))}"
        problems.append(Problem("unsupported_option", what, _PEFT))
    if len(ranks := sorted({pair.rank for pair in lora.pairs.values()})) > 1:
        what = f"It has one rank for all modules, the adapter has {', '.join(map(str, ranks))} (`rank_pattern`)"
        problems.append(Problem("rank_mismatch", what, _PEFT))
    if base.head_dim <= 0:
        problems.append(Problem("no_base", "The base model's config.json does not say the size of a head", _PEFT))
    if problems:
        raise AdapterInvalid("NeMo cannot hold this adapter", problems)


def _layers(base: ModelInfo) -> int:
    numbers = [module.split(".")[2] for module in base.linears if module.startswith("model.layers.")]
    return 1 + max((int(number) for number in numbers if number.isdecimal()), default=-1)


def _targets(lora: Lora) -> list[str]:
    kinds = {module.split(".", 3)[3] for module in lora.pairs}
    return [target for target, parts in WRITTEN.items() if kinds & {part for part, _ in parts}]


def _every(lora: Lora, base: ModelInfo, layers: int) -> Iterator[tuple[str, Pair]]:
    some = next(iter(lora.pairs.values()))
    for layer in range(layers):
        for target in _targets(lora):
            for part, name in WRITTEN[target]:
                module = f"model.layers.{layer}.{part}"
                shape = base.linears[module]
                nothing = Pair(
                    _zeros(some, some.rank, shape.in_features), _zeros(some, shape.out_features, some.rank), some.alpha
                )
                yield f"model.decoder.layers.{layer}.{name}", lora.pairs.get(module, nothing)


def _zeros(like: Pair, *shape: int) -> Tensor:
    return Tensor(like.a.dtype, np.zeros(shape, HELD[like.a.dtype]))


def _config(lora: Lora, base: ModelInfo, layers: int, alpha: float) -> dict[str, Any]:
    q, k, up = (
        base.linears[f"model.layers.0.{part}"] for part in ("self_attn.q_proj", "self_attn.k_proj", "mlp.up_proj")
    )
    some = next(iter(lora.pairs.values()))
    tuning = {
        "adapter_dim": some.rank,
        "alpha": alpha,
        "variant": "canonical",
        "target_modules": _targets(lora),
        "adapter_dropout": 0.0,
        "weight_tying": False,
        "layer_selection": None,
    }
    return {
        "mcore_gpt": True,
        "hidden_size": q.in_features,
        "ffn_hidden_size": up.out_features,
        "num_layers": layers,
        "num_attention_heads": q.out_features // base.head_dim,
        "num_query_groups": k.out_features // base.head_dim,
        "kv_channels": base.head_dim,
        "tensor_model_parallel_size": 1,
        "pipeline_model_parallel_size": 1,
        "peft": {"peft_scheme": "lora", "lora_tuning": tuning},
    }
