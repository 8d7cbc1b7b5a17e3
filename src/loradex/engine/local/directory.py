"""Engine directories: a model that has started and checked itself, written so that the next start only maps it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn
from transformers import AutoConfig, PreTrainedModel

from loradex import __version__
from loradex.adapters.base_model import BUILT
from loradex.adapters.keys import canonical
from loradex.adapters.model_record import written
from loradex.core.model import ModelInfo
from loradex.engine.built import FORMAT, WEIGHTS, Limits, rebuild
from loradex.engine.local.attention import NAME, PagedAttention
from loradex.engine.local.batch import Step
from loradex.engine.local.experts import Experts
from loradex.engine.local.kvcache import CacheShape
from loradex.engine.local.layouts import put_in, take_apart
from loradex.engine.local.linear import LoraLinear
from loradex.engine.local.model import BaseModel, swap_linears
from loradex.engine.local.processor import described, processor
from loradex.engine.local.seat import Seat
from loradex.engine.local.skeleton import fill, skeleton, stored_weights
from loradex.engine.local.tensor_file import map_tensors, write_tensors
from loradex.errors import ConfigInvalid

PROBE: Final = 8
"""Tokens of the self-check at each start; that of the build has all of the model's probe."""

_REFERENCE: Final = "self_check.logits"


def write_directory(
    model: BaseModel,
    info: ModelInfo,
    limits: Limits,
    built_from: Path,
    folder: Path,
    tell: Callable[[float], None],
) -> None:
    """Write what makes a folder with the model's configuration and tokenizer an engine directory.

    Raises:
        OSError: the disk refuses.
    """
    tensors: dict[str, torch.Tensor] = {_REFERENCE: model.reference[:PROBE].cpu()}
    kinds: dict[str, dict[str, Any]] = {}
    modules = list(_base_modules(model.module))
    for path, module in modules:
        if (found := take_apart(module)) is not None:
            layout, parts = found
            kinds[path] = {"layout": layout, "facts": parts.facts}
            tensors |= {f"{path}.{name}": tensor for name, tensor in parts.tensors.items()}
    others, aliases = stored_weights(modules, kinds)
    size = write_tensors(folder / WEIGHTS, tensors | others, tell)
    manifest = {
        "format": FORMAT,
        "loradex": __version__,
        "built_from": str(built_from.resolve()),
        "processor": processor(),
        "dtype": info.dtype,
        "device": info.device,
        "quantization": info.quantization,
        "limits": asdict(limits),
        "size": size,
        "model": written(info),
        "modules": kinds,
        "aliases": aliases,
        "probe": model.probe[:PROBE],
        "tied": model.tied,
        "linears": list(model.linears),
        "seats": {name: seat.head for name, seat in model.seats.items()},
        "experts": list(model.experts),
        "groups": model.groups,
        "cache": {str(layer): asdict(shape) for layer, shape in model.attention.shapes.items()},
    }
    (folder / BUILT).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")


def read_directory(folder: Path, manifest: Mapping[str, Any], slots: int) -> BaseModel:
    """Return the model of an engine directory, with its weights mapped.

    Args:
        folder: the directory.
        manifest: what `engine.json` in it says.
        slots: adapters resident at a time.

    Raises:
        ConfigInvalid: it was built for another processor, or is damaged.
    """
    hint = rebuild(folder, manifest)
    if manifest["processor"] != processor():
        raise ConfigInvalid(
            f"The engine in {folder} was built for {described(manifest['processor'])}; this is "
            f"{described(processor())}",
            hint=hint,
        )
    path = folder / WEIGHTS
    if not path.is_file() or path.stat().st_size != manifest["size"]:
        found = path.stat().st_size if path.is_file() else 0
        raise ConfigInvalid(f"{path} has {found} bytes, not {manifest['size']} as when it was built", hint=hint)
    tensors = map_tensors(path, hint)
    try:
        module = _module(folder, manifest, tensors)
        return _assembled(module, folder, manifest, tensors, slots)
    except ConfigInvalid as error:
        raise ConfigInvalid(error.message, hint=hint) from error
    except (KeyError, AttributeError, TypeError, ValueError) as error:
        raise ConfigInvalid(f"{folder / BUILT} does not fit {path.name}: {error!r}", hint=hint) from error


def _module(folder: Path, manifest: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> PreTrainedModel:
    config = AutoConfig.from_pretrained(folder)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    module = skeleton(folder, config, getattr(torch, manifest["dtype"]))
    put_in(module, manifest["modules"], tensors)
    fill(module, tensors, manifest["aliases"], manifest["modules"])
    return module


def _assembled(
    module: PreTrainedModel,
    folder: Path,
    manifest: Mapping[str, Any],
    tensors: Mapping[str, torch.Tensor],
    slots: int,
) -> BaseModel:
    step = Step()
    wrapped = swap_linears(module, slots, step)
    attention = PagedAttention(step)
    attention.shapes = {int(layer): CacheShape(**shape) for layer, shape in manifest["cache"].items()}
    attention.attach(module)
    module.set_attn_implementation(NAME)
    by_name = {canonical(name): each for name, each in module.named_modules()}
    info = manifest["model"]
    return BaseModel(
        module=module,
        config=module.config,
        folder=folder,
        step=step,
        attention=attention,
        linears={name: wrapped[name] for name in manifest["linears"]},
        probe=manifest["probe"],
        reference=tensors[_REFERENCE],
        dtype=module.dtype,
        device=torch.device("cpu"),
        vocab_size=info["vocab_size"],
        seats={name: Seat(by_name[name], step, head=head) for name, head in manifest["seats"].items()},
        experts={name: Experts(by_name[name], step) for name in manifest["experts"]},
        groups=manifest["groups"],
        embedding=info["embedding"],
        head=info["head"],
        tied=manifest["tied"],
        quantization=manifest["quantization"],
    )


def _base_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the modules of the base by path, with linears where adapters' wrappers stand."""
    wrapped = set()
    for path, each in model.named_modules():
        if isinstance(each, LoraLinear):
            wrapped.add(f"{path}.base")
            yield path, each.base
        elif path not in wrapped:
            yield path, each
