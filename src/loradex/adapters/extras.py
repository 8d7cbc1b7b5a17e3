"""The tensors of an adapter that are no low-rank pairs: what `use_dora`, `modules_to_save` and their like leave."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from loradex.adapters.adapter import Extra, LoraLayer, Role
from loradex.adapters.config import LoraConfig
from loradex.adapters.header import Header
from loradex.adapters.keys import canonical, parse_extra, parse_key, said_before
from loradex.adapters.listing import listed
from loradex.errors import Problem

_SAVE = "Save the adapter again with PEFT's `save_pretrained`"

# Which option brings a tensor of a role. Weights and biases of the base need none: PEFT puts them in whoever asks.
_OPTION: Mapping[Role, str] = {
    "magnitude": "use_dora",
    "pair_bias": "lora_bias",
    "tokens": "trainable_token_indices",
}


@dataclass(frozen=True, slots=True)
class Extras:
    """What was found beside the pairs; the fields are those of `Adapter`."""

    tensors: tuple[Extra, ...] = ()
    tokens: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    absent: tuple[str, ...] = ()

    @property
    def parameters(self) -> int:
        """Number of weights."""
        return sum(math.prod(extra.shape) for extra in self.tensors)


def read_extras(
    header: Header, config: LoraConfig | None, layers: Mapping[str, LoraLayer]
) -> tuple[Extras, list[Problem]]:
    """Read what the tensors are that no pair is made of; a tensor that nothing explains is a problem."""
    found: dict[tuple[str, Role], Extra] = {}
    strange, double = [], []
    for name in sorted(header.tensors):
        if parse_key(name) is not None or said_before(name) in header.tensors:
            continue
        parsed = parse_extra(name)
        if parsed is None:
            strange.append(name)
            continue
        module, role = parsed
        if role == "weight" and not (config and _is_apart(module, config)):
            role = "base_weight"
        extra = Extra(canonical(module), role, name, header.tensors[name].shape)
        if (extra.module, role) in found:
            double.append(name)
        found[extra.module, role] = extra
    problems = []
    if strange:
        what = f"{len(strange)} tensors are not known to belong to LoRA: {listed(strange)}"
        problems.append(Problem("unsupported_tensors", what, _SAVE))
    if double:
        problems.append(Problem("duplicate", f"Tensors mean the same: {listed(double)}", "Save it again"))
    if config is None:
        return Extras(tuple(found.values())), problems
    tokens, wrong = _tokens(found, config)
    if config.raw.get("ensure_weight_tying") and (both := _ends(found, layers)):
        what = f"`ensure_weight_tying` is set: what {listed(both)} got may be meant for what is tied to it too"
        problems.append(Problem("unsupported_option", what, "Train again with `ensure_weight_tying=False`"))
    problems += _activated(found, config, layers)
    problems += wrong + _unexplained(found, config) + _missing(found, config, layers) + _together(found, layers)
    absent = [name for name in config.modules_to_save if not any(f"{name}." in each.tensor for each in found.values())]
    return Extras(tuple(found.values()), tokens, tuple(absent)), problems + _shapes(found, layers)


def _is_apart(module: str, config: LoraConfig) -> bool:
    """Whether a module is one of `modules_to_save` or lies in one: what is tied to it keeps the base's weight."""
    parts = module.split(".")
    paths = (".".join(parts[: count + 1]) for count in range(len(parts)))
    return any(path.endswith(name) for path in paths for name in config.modules_to_save)


Found = Mapping[tuple[str, Role], Extra]


def _ends(found: Found, layers: Mapping[str, LoraLayer]) -> list[str]:
    """Return the modules that other modules may be tied to. PEFT ties them in some families and not in others."""
    whole = [extra.module for extra in found.values() if extra.role == "weight" and len(extra.shape) == 2]
    return whole + [module for module, layer in layers.items() if layer.embedding]


def _unexplained(found: Found, config: LoraConfig) -> list[Problem]:
    problems = []
    for role, option in _OPTION.items():
        names = [extra.tensor for extra in found.values() if extra.role == role]
        if names and not config.raw.get(option):
            what = f"{len(names)} tensors belong to `{option}`, which adapter_config.json does not set: {listed(names)}"
            problems.append(Problem("unsupported_tensors", what, f"Set `{option}` as it was in training"))
    return problems


def _activated(found: Found, config: LoraConfig, layers: Mapping[str, LoraLayer]) -> list[Problem]:
    """Return a problem where an activated adapter is more than pairs on linears, as PEFT computes the rest always."""
    more = [extra.tensor for extra in found.values() if extra.role != "pair_bias"]
    more += [layer.a for layer in layers.values() if layer.embedding or layer.experts]
    if not config.invocation or not more:
        return []
    what = f"`alora_invocation_tokens` is set beside more than pairs on linears: {listed(more)}"
    return [Problem("unsupported_option", what, "Train again with linears alone, or without invocation tokens")]


def _missing(found: Found, config: LoraConfig, layers: Mapping[str, LoraLayer]) -> list[Problem]:
    """Return a problem for each option whose tensors are not there: without them the answer would be another."""
    missing: dict[str, list[str]] = {}
    if config.use_dora:
        missing["use_dora"] = [module for module in layers if (module, "magnitude") not in found]
    if config.lora_bias:
        missing["lora_bias"] = [module for module in layers if (module, "pair_bias") not in found]
    if config.token_indices and not any(role == "tokens" for _, role in found):
        missing["trainable_token_indices"] = list(config.token_indices)
    return [
        Problem("missing_tensors", f"`{option}` is set, but its tensors are missing for {listed(names)}", _SAVE)
        for option, names in missing.items()
        if names
    ]


def _tokens(found: Found, config: LoraConfig) -> tuple[dict[str, tuple[int, ...]], list[Problem]]:
    tokens: dict[str, tuple[int, ...]] = {}
    wrong = []
    for (module, role), extra in found.items():
        if role != "tokens" or not config.token_indices:
            continue
        indices = next((ids for name, ids in config.token_indices.items() if module.endswith(name)), ())
        tokens[module] = indices
        if extra.shape[:1] != (len(indices),) or len(set(indices)) != len(indices):
            wrong.append(f"{module}: {len(set(indices))} token ids, a tensor {list(extra.shape)}")
    if not wrong:
        return tokens, []
    what = f"`trainable_token_indices` does not fit its tensor, at {listed(wrong)}"
    return tokens, [Problem("bad_extra", what, "There must be one row for each token id, and each id once")]


def _together(found: Found, layers: Mapping[str, LoraLayer]) -> list[Problem]:
    """Return a problem where one embedding is trained in two ways: PEFT computes none of these."""
    both = [
        module
        for module, role in found
        if role == "tokens" and (module in layers or (module, "weight") in found or _is_beside(module, found))
    ]
    if not both:
        return []
    what = f"Single tokens of {listed(both)} are trained, and the whole of it as well"
    return [Problem("unsupported_option", what, "Train again with one of them")]


def _is_beside(module: str, found: Found) -> bool:
    """Whether the file holds the base's weight of a module, and not under its single tokens, where PEFT puts it."""
    weight = found.get((module, "base_weight"))
    return weight is not None and ".token_adapter." not in weight.tensor


def _shapes(found: Found, layers: Mapping[str, LoraLayer]) -> list[Problem]:
    wrong = []
    for (module, role), extra in found.items():
        if role not in ("magnitude", "pair_bias"):
            continue
        layer = layers.get(module)
        if layer is None or math.prod(extra.shape) != layer.out_features or extra.shape[-1:] != (layer.out_features,):
            wrong.append(extra.tensor)
    if not wrong:
        return []
    what = f"{len(wrong)} tensors do not fit the pair beside them: {listed(wrong)}"
    return [Problem("bad_extra", what, _SAVE)]
