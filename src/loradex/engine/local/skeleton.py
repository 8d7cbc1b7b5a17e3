"""A model of transformers without its weights, and the weights put into it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import torch
from torch import nn
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedConfig, PreTrainedModel
from transformers.initialization import no_init_weights

from loradex.errors import ConfigInvalid


def skeleton(folder: Path, config: PreTrainedConfig, dtype: torch.dtype) -> PreTrainedModel:
    """Return the model that a configuration describes, on the CPU, with every weight still to be put in.

    What it computes for itself, such as rotary frequencies, is there. Its memory is not touched before it is written,
    so that weights that are replaced cost nothing.
    """
    with no_init_weights():
        module: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="eager")
    if (folder / "generation_config.json").is_file():
        module.generation_config = GenerationConfig.from_pretrained(folder)
    return module.eval().requires_grad_(False)


def fill(
    module: nn.Module, tensors: Mapping[str, torch.Tensor], aliases: Mapping[str, str], known: Collection[str]
) -> None:
    """Put weights in, where they lie; `known` modules have theirs already.

    Args:
        module: a skeleton.
        tensors: by full name; each takes the dtype of the weight whose place it takes.
        aliases: names whose weight is another one's.
        known: paths of modules that were replaced.

    Raises:
        ConfigInvalid: a weight of the model is missing, or has another shape.
    """
    for name, empty in _weights(module.named_modules(), known).items():
        source = aliases.get(name, name)
        found = tensors.get(source)
        if found is None or found.shape != empty.shape:
            what = "is missing" if found is None else f"has the shape {list(found.shape)}, not {list(empty.shape)}"
            raise ConfigInvalid(f"`{source}` {what}", hint="Write the files again with the command that made them")
        owner, _, leaf = name.rpartition(".")
        parent = module.get_submodule(owner)
        value = found.to(empty.dtype)
        if leaf in parent._buffers:
            parent._buffers[leaf] = value
        elif source == name:
            parent._parameters[leaf] = nn.Parameter(value, requires_grad=False)
    for name, source in aliases.items():
        owner, _, leaf = name.rpartition(".")
        module.get_submodule(owner)._parameters[leaf] = module.get_parameter(source)


def stored_weights(
    modules: Iterable[tuple[str, nn.Module]], known: Collection[str]
) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Return what `fill` puts in: the weights by full name, and the names whose weight is another one's.

    `modules` are those of a model by path; those that are `known` are left out.
    """
    tensors: dict[str, torch.Tensor] = {}
    names: dict[int, str] = {}
    aliases: dict[str, str] = {}
    for name, tensor in _weights(modules, known).items():
        first = names.setdefault(id(tensor), name)
        if first == name:
            tensors[name] = tensor
        else:
            aliases[name] = first
    return tensors, aliases


def _weights(modules: Iterable[tuple[str, nn.Module]], known: Collection[str]) -> dict[str, torch.Tensor]:
    """Return every parameter and every buffer that a checkpoint holds, by full name."""
    found: dict[str, torch.Tensor] = {}
    for path, each in modules:
        if path in known:
            continue
        prefix = f"{path}." if path else ""
        kept = {name: tensor for name, tensor in each._buffers.items() if name not in each._non_persistent_buffers_set}
        found |= {prefix + name: tensor for name, tensor in {**each._parameters, **kept}.items() if tensor is not None}
    return found
