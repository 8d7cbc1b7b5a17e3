"""LoRA adapters of NeMo 1: a `.nemo` archive, or its folder, with `model_config.yaml` and checkpoints.

The scaling is `alpha / adapter_dim`, or 1 where no alpha is stated. A fused B of q, k and v is interleaved: for each
group of heads its queries, then its key, then its value.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from loradex.adapters.formats.detect import NEMO_CONFIG
from loradex.adapters.formats.lora import Lora, Pair
from loradex.adapters.formats.mapped import Mapped
from loradex.adapters.formats.nemo_names import Key
from loradex.adapters.formats.nemo_shards import Halves, joined, read_shards
from loradex.adapters.formats.refusal import refuse
from loradex.adapters.formats.tar_file import read_tar
from loradex.adapters.formats.tensor import Tensor
from loradex.adapters.formats.yaml_file import at, read_yaml, whole
from loradex.adapters.listing import printable

_EXPORT: Final = "Export it from NeMo as hf-peft, and give that"


def read_nemo(path: Path, parts: Mapping[str, Path]) -> Lora:
    """Read an adapter of NeMo 1: one archive, or the files of its folder by their names in it.

    Raises:
        AdapterInvalid: it is none, is more than LoRA, or contradicts itself.
        OSError: a file cannot be opened.
    """
    files = {name: Mapped.whole(file) for name, file in parts.items()}
    if NEMO_CONFIG not in files:
        [archive] = files.values()
        files = read_tar(archive)
    if NEMO_CONFIG not in files:
        refuse(path, "bad_config", f"holds no `{NEMO_CONFIG}`", "Give the whole archive")
    config = read_yaml(files[NEMO_CONFIG])
    _check(path, config)
    halves = read_shards(path, files, whole(config, "num_layers"))
    pairs = dict(_pairs(path, config, halves))
    # It stores a pair for every module of a target, trained or not; one whose B is zero adds nothing.
    return Lora({module: pair for module, pair in pairs.items() if pair.b.values.any()} or pairs)


def _check(path: Path, config: Mapping[str, Any]) -> None:
    scheme = at(config, "peft", "peft_scheme")
    if scheme not in (None, "lora"):
        refuse(path, "unsupported_type", f"is a `{printable(str(scheme))}` adapter; only lora is served", _EXPORT)
    if at(config, "peft", "lora_tuning", "weight_tying"):
        refuse(path, "unsupported_option", "ties its weights across layers, which is not served", _EXPORT)
    if whole(config, "virtual_pipeline_model_parallel_size") > 1:
        refuse(path, "unsupported_option", "was trained on virtual pipeline ranks, whose layers alternate", _EXPORT)


def _pairs(path: Path, config: Mapping[str, Any], halves: Halves) -> Iterator[tuple[str, Pair]]:
    rank = whole(config, "peft", "lora_tuning", "adapter_dim")
    stated = at(config, "peft", "lora_tuning", "alpha")
    alpha = rank if stated is None else stated
    if not rank or isinstance(alpha, bool) or not isinstance(alpha, int | float) or not math.isfinite(alpha):
        what = f"states adapter_dim {printable(str(rank))} and alpha {printable(str(stated))}, which are no numbers"
        refuse(path, "bad_config", what, "Give the configuration with which it was trained")
    for place in dict.fromkeys(Key(key.layer, key.name, "in") for key in halves):
        other = Key(place.layer, place.name, "out")
        if place not in halves or other not in halves:
            refuse(path, "missing_half", f"has only one half of `{place.name}` in layer {place.layer}", _EXPORT)
        a, b = joined(place, halves[place]), joined(other, halves[other])
        if a.shape[0] != rank or b.shape[1] != rank:
            what = f"has A {list(a.shape)} and B {list(b.shape)} at `{place.name}` where its rank is {rank}"
            refuse(path, "rank_mismatch", what, "Give the configuration with which it was trained")
        for part, rows in _split(path, config, place, b):
            yield f"model.layers.{place.layer}.{part}", Pair(a, rows, float(alpha))


def _split(path: Path, config: Mapping[str, Any], key: Key, b: Tensor) -> Iterator[tuple[str, Tensor]]:
    parts = key.place.parts
    if len(parts) == 3:
        yield from zip(parts, _heads(path, config, b), strict=True)
    elif len(parts) == 2 and _is_gated(config, b):
        half = b.shape[0] // 2
        yield parts[0], b.rows(slice(None, half))
        yield parts[1], b.rows(slice(half, None))
    else:
        yield parts[-1], b  # without a gate, the first linear is the one that goes up


def _is_gated(config: Mapping[str, Any], b: Tensor) -> bool:
    if inner := whole(config, "ffn_hidden_size"):
        return b.shape[0] == 2 * inner
    activation = str(config.get("activation", "fast-swiglu"))
    return b.shape[0] % 2 == 0 and activation.endswith(("glu", "geglu", "swiglu"))


def _heads(path: Path, config: Mapping[str, Any], b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    heads = whole(config, "num_attention_heads")
    groups = whole(config, "num_query_groups") or heads
    size = whole(config, "kv_channels") or (whole(config, "hidden_size") // heads if heads else 0)
    if not heads or heads % groups or b.shape[0] != (heads + 2 * groups) * size:
        what = f"has {b.shape[0]} fused rows of q, k and v, and {heads} heads in {groups} groups of {size} rows each"
        refuse(path, "shape_mismatch", what, "Correct num_attention_heads, num_query_groups or kv_channels")
    rank, queries = b.shape[1], heads // groups
    grouped = b.values.reshape(groups, queries + 2, size, rank)
    slices = (grouped[:, :queries], grouped[:, queries], grouped[:, queries + 1])
    q, k, v = (Tensor(b.dtype, each.reshape(-1, rank)) for each in slices)
    return q, k, v
