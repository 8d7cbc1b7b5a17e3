"""The checkpoints of a NeMo 1 adapter, one for each tensor- and pipeline-parallel rank, put together."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from loradex.adapters.formats.mapped import Mapped
from loradex.adapters.formats.nemo_names import Key, parse_key
from loradex.adapters.formats.refusal import refuse
from loradex.adapters.formats.tensor import Tensor, concatenated
from loradex.adapters.formats.torch_file import TorchFile
from loradex.adapters.listing import listed

Halves = dict[Key, list[Tensor]]
"""Each half with its shards, by tensor-parallel rank."""

_RANKS = re.compile(r"(?:mp_rank_(?P<mp>\d{2})|tp_rank_(?P<tp>\d{2})_pp_rank_(?P<pp>\d{3}))/model_weights\.ckpt")
_AGAIN = "Give the whole `.nemo` file, or the folder with all its ranks"


def read_shards(path: Path, members: Mapping[str, Mapped], layers: int) -> Halves:
    """Read every checkpoint among the members of an adapter at `path`.

    Args:
        path: for messages.
        members: files by their names in the archive.
        layers: number of layers of the base, by which those of later pipeline ranks are counted; 0 where it is unknown.

    Raises:
        AdapterInvalid: ranks are missing, a checkpoint cannot be read, or it holds more than low-rank pairs.
    """
    ranks = _ranks(path, members)
    width, depth = 1 + max(tensor for tensor, _ in ranks), 1 + max(pipe for _, pipe in ranks)
    if depth > 1 and layers % depth:
        what = f"was trained on {depth} pipeline ranks, which do not share {layers or 'an unknown number of'} layers"
        refuse(path, "bad_config", what, _AGAIN)
    halves: Halves = {}
    strange = []
    for (tensor_rank, pipe), file in sorted(ranks.items()):
        for name, tensor in TorchFile(file).tensors().items():
            key = parse_key(name)
            if key is None or len(tensor.shape) != 2:
                strange.append(name)
                continue
            moved = Key(key.layer + pipe * (layers // depth), key.name, key.side)
            halves.setdefault(moved, []).append(tensor)
            if len(halves[moved]) != tensor_rank + 1:
                strange.append(name)
    if strange:
        what = f"holds tensors that are no low-rank pair of a linear, or not on every rank: {listed(strange)}"
        refuse(path, "unsupported_tensors", what, "Train with LoRA alone, or export it from NeMo as hf-peft")
    if short := [key.name for key, shards in halves.items() if len(shards) != width]:
        refuse(path, "missing_half", f"lacks shards of {listed(short)}", _AGAIN)
    return halves


def joined(key: Key, shards: list[Tensor]) -> Tensor:
    """Put the shards of a half together, as one rank would hold it."""
    if len(shards) == 1:
        return shards[0]
    if key.side == "in" and key.place.split == "row":
        return concatenated(shards, axis=1)
    if key.side == "out" and key.place.parts == ("mlp.gate_proj", "mlp.up_proj"):
        # Each rank holds its gate above its up.
        half = [len(shard.values) // 2 for shard in shards]
        gates = [shard.rows(slice(None, at)) for shard, at in zip(shards, half, strict=True)]
        ups = [shard.rows(slice(at, None)) for shard, at in zip(shards, half, strict=True)]
        return concatenated(gates + ups, axis=0)
    return concatenated(shards, axis=0)


def _ranks(path: Path, members: Mapping[str, Mapped]) -> dict[tuple[int, int], Mapped]:
    ranks: dict[tuple[int, int], Mapped] = {}
    for name, file in members.items():
        match = _RANKS.fullmatch(name)
        if match is not None:
            ranks[int(match["mp"] or match["tp"]), int(match["pp"] or 0)] = file
        elif name == "model_weights.ckpt":
            ranks[0, 0] = file
    if not ranks:
        refuse(path, "unsupported_type", "holds no `model_weights.ckpt`", "Give an adapter that NeMo 1 saved")
    width, depth = 1 + max(tensor for tensor, _ in ranks), 1 + max(pipe for _, pipe in ranks)
    if len(ranks) != width * depth:
        refuse(path, "truncated", f"has {len(ranks)} of {width * depth} ranks", _AGAIN)
    return ranks
