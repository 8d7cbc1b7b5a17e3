"""Checkpoints whose linears were rounded once: what `loradex quantize` writes, and every engine loads as it is.

A linear's `weight` holds codes, `[out_features, in_features]` in int8 or float8_e4m3fn, or two codes of 4 bits in a
byte (`[out_features, in_features / 2]` in uint8, the even input below); beside it lies `weight_scale`, float32
`[out_features, groups]`. All else is as transformers saved it, and `config.json` says `"quant_method": "loradex"`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from loradex.adapters.base_model import OURS
from loradex.engine.local.quantized import QuantizedLinear
from loradex.engine.local.rounding import Rounded
from loradex.engine.local.skeleton import fill, skeleton, stored_weights
from loradex.engine.local.tensor_file import map_tensors, write_tensors
from loradex.errors import ConfigInvalid

FILE: Final = "model.safetensors"
_CODES: Final = "weight"
_SCALES: Final = "weight_scale"
_AGAIN: Final = "Quantize the base again: loradex quantize --model-dir MODEL --output-dir DIR"


def write_rounded(module: PreTrainedModel, folder: Path, method: str, tell: Callable[[float], None]) -> None:
    """Write a model whose linears are quantized into a folder that has its other files already.

    Raises:
        OSError: the disk refuses.
    """
    tensors: dict[str, torch.Tensor] = {}
    known = {name: each for name, each in module.named_modules() if isinstance(each, QuantizedLinear)}
    for name, linear in known.items():
        rounded = linear.rounded
        if rounded is None:  # a kernel took it, and lays it in its own way
            raise ValueError(f"{name} is in use")
        tensors[f"{name}.{_CODES}"] = _paired(rounded.codes) if rounded.bits == 4 else rounded.codes
        tensors[f"{name}.{_SCALES}"] = rounded.scales
        if linear.bias is not None:
            tensors[f"{name}.bias"] = linear.bias
    others, _ = stored_weights(module.named_modules(), known)
    write_tensors(folder / FILE, tensors | others, tell)
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["quantization_config"] = {"quant_method": OURS, "method": method, "weight_scale": _SCALES}
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def read_rounded(
    folder: Path, config: PreTrainedConfig, dtype: torch.dtype, device: torch.device, *, widen: bool
) -> PreTrainedModel:
    """Return the model of such a checkpoint on its device; nothing is rounded again.

    With `widen` its linears are plain ones of the values that the codes mean.

    Raises:
        ConfigInvalid: a file is missing or damaged.
    """
    del config.quantization_config  # transformers would look for a method of its own
    tensors = map_tensors(folder / FILE, _AGAIN)
    module = skeleton(folder, config, dtype)
    names = [name.removesuffix(f".{_SCALES}") for name in tensors if name.endswith(f".{_SCALES}")]
    if not names:
        raise ConfigInvalid(f"{folder / FILE} holds no rounded weights", hint=_AGAIN)
    for name in names:
        codes, scales, bias = (tensors.get(f"{name}.{part}") for part in (_CODES, _SCALES, "bias"))
        if codes is None or scales is None:
            raise ConfigInvalid(f"{folder / FILE} holds scales of `{name}`, and no weights", hint=_AGAIN)
        packed = codes.dtype is torch.uint8
        codes = _parted(codes) if packed else codes
        rounded = Rounded(codes.to(device), scales.to(device), 4 if packed else 8)
        bias = None if bias is None else nn.Parameter(bias.to(device, dtype), requires_grad=False)
        quantized = QuantizedLinear(rounded, bias, dtype)
        module.set_submodule(name, _widened(quantized) if widen else quantized)
    fill(module, tensors, _tied(module, names), names)
    moved: PreTrainedModel = module.to(device)  # type: ignore[arg-type]
    return moved


def _tied(module: PreTrainedModel, known: list[str]) -> dict[str, str]:
    """Return the head's weight as the embedding's where they were one, and it was not rounded."""
    named = {each: name for name, each in module.named_modules()}
    head: Any = module.get_output_embeddings()  # type: ignore[no-untyped-call]
    if not module.config.tie_word_embeddings or head is None or named[head] in known:
        return {}
    return {f"{named[head]}.weight": f"{named[module.get_input_embeddings()]}.weight"}


def _widened(linear: QuantizedLinear) -> nn.Linear:
    if linear.rounded is None:
        raise ValueError("its weights were given away")
    plain = nn.Linear(linear.in_features, linear.out_features, bias=linear.bias is not None, device="meta")
    plain.weight = nn.Parameter(linear.rounded.values(linear.weight.dtype), requires_grad=False)
    if isinstance(linear.bias, nn.Parameter):
        plain.bias = linear.bias
    return plain.eval()


def _paired(codes: torch.Tensor) -> torch.Tensor:
    low, high = codes[:, ::2] & 15, codes[:, 1::2] << 4
    return (low | high).view(torch.uint8)


def _parted(pairs: torch.Tensor) -> torch.Tensor:
    both = pairs.view(torch.int8)
    return torch.stack([(both << 4) >> 4, both >> 4], dim=2).flatten(1)
