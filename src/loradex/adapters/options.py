"""PEFT's options: which have no part in inference, and which are refused because they would change the answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from loradex.adapters.listing import listed
from loradex.errors import Problem

# Read by `config.py`, or without effect once trained. Parallel training (`megatron_*`) is undone on saving, and the
# settings of an initialisation (`*_config`) count only with that initialisation, which `init_lora_weights` names.
HARMLESS = frozenset(
    (
        *("peft_type", "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision"),
        *("inference_mode", "r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern", "target_modules"),
        *("exclude_modules", "layers_to_transform", "layers_pattern", "lora_dropout", "fan_in_fan_out", "bias"),
        *("init_lora_weights", "runtime_config", "ensure_weight_tying", "qalora_group_size", "megatron_config"),
        *("megatron_core", "loftq_config", "eva_config", "corda_config", "lora_ga_config"),
        *("use_dora", "lora_bias", "modules_to_save", "trainable_token_indices", "target_parameters"),
        "alora_invocation_tokens",
    )
)

EXPERTS = ("gate_up_proj", "down_proj")
"""The stacked weights of experts that may have pairs, in the order in which PEFT wraps them."""

_PLAIN = "Train again with plain LoRA"
_MERGE = "Merge it into the base with PEFT's `merge_and_unload` and serve the result, or train again without it"

_REFUSED: Mapping[str, tuple[str, str]] = {
    "layer_replication": ("layers of the base are repeated, so its shape is another model's", _MERGE),
    "use_qalora": ("QALoRA pools the inputs of the pair, which is not served", _PLAIN),
    "use_bdlora": ("BD-LoRA makes the pair block-diagonal, which is not served", _PLAIN),
    "arrow_config": ("Arrow routes every token among several adapters, which is not served", _PLAIN),
    "kasa_config": ("KaSA puts a learned diagonal into the pair, which is not served", _PLAIN),
    "velora_config": ("VeLoRA is not served", _PLAIN),
    "monteclora_config": ("MonteCLoRA samples its weights, which is not served", _PLAIN),
}

# The start of `init_lora_weights` under which training began on changed base weights.
_CHANGES_BASE = ("pissa", "olora", "corda", "lora_ga")
_KEEPS_BASE = ("gaussian", "eva", "orthogonal", "mica")

_CONVERT = (
    "Make it plain with `loradex adapter convert`, given the base and, but for PiSSA and OLoRA, the adapter as it was "
    "before training; or save it with PEFT's `path_initial_model_for_weight_conversion`"
)


def refused(config: Mapping[str, Any]) -> list[Problem]:
    """Return one problem for each option that is set and not served, and one for all unknown ones that are set."""
    asked = sorted(name for name, value in config.items() if value and name not in HARMLESS)
    problems = [
        Problem("unsupported_option", f"`{name}` is set: {what}", fix)
        for name, (what, fix) in _REFUSED.items()
        if name in asked
    ]
    if unknown := [name for name in asked if name not in _REFUSED]:
        what = f"Options that are not known are set, so their effect would be lost in silence: {listed(unknown)}"
        fix = "Remove them from adapter_config.json if they have no effect on inference"
        problems.append(Problem("unsupported_option", what, fix))
    if strange := [each for each in _parameters(config) if each.rpartition(".")[2] not in EXPERTS]:
        what = f"`target_parameters` names {listed(strange)}; served are the {' and '.join(EXPERTS)} of experts"
        problems.append(Problem("unsupported_option", what, "Adapt the others as linears, by `target_modules`"))
    if config.get("use_dora") and config.get("lora_bias"):
        what = "`use_dora` and `lora_bias` are both set, which PEFT itself does not compute"
        problems.append(Problem("unsupported_option", what, "Train again with one of them"))
    return problems + _initialisation(config.get("init_lora_weights"))


def _parameters(config: Mapping[str, Any]) -> list[str]:
    found = config.get("target_parameters")
    return found if isinstance(found, list) and _is_names(found) else []


def _initialisation(value: Any) -> list[Problem]:
    if value is None or isinstance(value, bool):
        return []
    name = value.lower() if isinstance(value, str) else ""
    if name in _KEEPS_BASE:
        return []
    if name == "loftq":
        what = "`init_lora_weights` is 'loftq': training saw rounded base weights, which no pair can bring back"
        return [Problem("unsupported_option", what, "Train again on the base that is served")]
    if name.startswith(_CHANGES_BASE):
        what = (
            f"`init_lora_weights` is {value!r}: training changed the base weights, so A and B alone are not the adapter"
        )
        return [Problem("changed_base", what, _CONVERT)]
    what = f"`init_lora_weights` is {str(value)[:60]!r}, which is unknown: it may have changed the base weights"
    return [Problem("unsupported_option", what, _CONVERT)]


Check = Callable[[Any], bool]


def _is_text(value: Any) -> bool:
    return value is None or (isinstance(value, str) and value.isprintable())


def _is_names(value: Any) -> bool:
    return _is_text(value) or (isinstance(value, list) and all(isinstance(name, str) for name in value))


def _is_indices(value: Any) -> bool:
    return value is None or type(value) is int or (isinstance(value, list) and all(type(one) is int for one in value))


def _is_switch(value: Any) -> bool:
    return value is None or isinstance(value, bool)


def _is_tokens(value: Any) -> bool:
    return not value or (isinstance(value, list) and all(type(one) is int and 0 <= one < 2**31 for one in value))


def _is_token_table(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(each, list) and _is_tokens(each) for each in value.values())
    return _is_tokens(value)


TYPES: Mapping[str, tuple[Check, str]] = {
    "base_model_name_or_path": (_is_text, "a line of text"),
    "use_rslora": (_is_switch, "true or false"),
    "use_dora": (_is_switch, "true or false"),
    "lora_bias": (_is_switch, "true or false"),
    "modules_to_save": (_is_names, "a list of names"),
    "target_parameters": (lambda value: not isinstance(value, str) and _is_names(value), "a list of names"),
    "alora_invocation_tokens": (_is_tokens, "a list of token ids"),
    "trainable_token_indices": (_is_token_table, "a list of token ids, or a table of module to such a list"),
    "target_modules": (_is_names, "a name, a pattern or a list of names"),
    "exclude_modules": (_is_names, "a name, a pattern or a list of names"),
    "layers_to_transform": (_is_indices, "a layer number or a list of them"),
    "layers_pattern": (_is_names, "a name or a list of names"),
    "rank_pattern": (lambda value: value is None or isinstance(value, dict), "a table of pattern to rank"),
    "alpha_pattern": (lambda value: value is None or isinstance(value, dict), "a table of pattern to alpha"),
    "bias": (lambda value: value in (None, "none", "all", "lora_only"), "`none`, `all` or `lora_only`"),
}
"""What the honoured options may hold, and how to say it."""
