"""Tensor names as PEFT writes them; no other file knows them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from loradex.adapters.adapter import Role

_WRAPPED = ".base_layer"

PREFIX = "base_model.model."

TOKENS = ("embed_tokens", "wte", "tok_embeddings", "word_embeddings", "embed_in", "shared")
"""What models call their token embedding."""

EMBEDDINGS = frozenset((*TOKENS, "lm_head", "embed_out"))
"""And that or the output head, where nothing else is called so."""

# An adapter's own name may stand between `lora_A` and `weight`: state dicts saved without PEFT's `save_pretrained`.
_LORA = re.compile(r"(?P<module>.+)\.lora_(?P<side>[AB])(?:\.(?P<adapter>[^.]+))?\.weight", re.DOTALL)
_EMBEDDING = re.compile(r"(?P<module>.+)\.lora_embedding_(?P<side>[AB])(?:\.(?P<adapter>[^.]+))?", re.DOTALL)

_EXTRA: tuple[tuple[re.Pattern[str], Role], ...] = (
    (re.compile(r"(.+)\.lora_magnitude_vector(?:\.[^.]+)?(?:\.weight)?", re.DOTALL), "magnitude"),
    (re.compile(r"(.+)\.lora_B(?:\.[^.]+)?\.bias", re.DOTALL), "pair_bias"),
    (re.compile(r"(.+)\.token_adapter\.trainable_tokens_delta(?:\.[^.]+)?", re.DOTALL), "tokens"),
    (re.compile(r"(.+?)(?:\.token_adapter)?\.base_layer\.weight", re.DOTALL), "base_weight"),
    (re.compile(r"(.+?)(?:\.base_layer)?\.bias", re.DOTALL), "bias"),
    (re.compile(r"(.+)\.weight", re.DOTALL), "weight"),
)

# Parts of names that stand for what is not served, or for a state dict that was not saved by PEFT.
_FOREIGN = re.compile(r"\.lora_diag\b|\.(?:modules_to_save|original_module)\.|^lora_")

_TWICE = re.compile(r"\.(?:modules_to_save|original_module)(?=\.weight$)")

# Where a model that also sees or hears keeps the language model and its head, in newer and in older transformers.
_LANGUAGE = re.compile(r"^(?:model\.language_model\.|language_model\.model\.)")
_LANGUAGE_HEAD = re.compile(r"^language_model\.(?=lm_head$)")


@dataclass(frozen=True, slots=True)
class Key:
    """One half of the low-rank pair of a module. `adapter` is the name infix, empty in what PEFT saves."""

    module: str
    side: Literal["A", "B"]
    adapter: str = ""
    embedding: bool = False

    def __str__(self) -> str:
        infix = f".{self.adapter}" if self.adapter else ""
        if self.embedding:
            return f"{PREFIX}{self.module}.lora_embedding_{self.side}{infix}"
        return f"{PREFIX}{self.module}.lora_{self.side}{infix}.weight"


def parse_key(name: str) -> Key | None:
    """Return the module path in the base model and the side that a tensor name means, or None for any other tensor."""
    name = name.removeprefix(PREFIX)
    for pattern in (_LORA, _EMBEDDING):
        match = pattern.fullmatch(name)
        if match is not None and ".lora_" not in match["module"]:
            side: Literal["A", "B"] = "A" if match["side"] == "A" else "B"
            return Key(match["module"], side, match["adapter"] or "", pattern is _EMBEDDING)
    return None


def parse_extra(name: str) -> tuple[str, Role] | None:
    """Return module path and role of a tensor that is no half of a pair, or None where it has none that is served."""
    name = name.removeprefix(PREFIX)
    if _FOREIGN.search(name):
        return None
    for pattern, role in _EXTRA:
        match = pattern.fullmatch(name)
        if match is not None and ".lora_" not in match[1]:
            return match[1], role
    return None


def said_before(name: str) -> str:
    """Return under which name PEFT has saved the same tensor already, or the base's of which nothing is used; or "".

    Of a resized embedding in `modules_to_save` it writes all that its wrapper holds.
    """
    return _TWICE.sub("", name) if _TWICE.search(name) else ""


def canonical(module: str) -> str:
    """Return a module path as the language model by itself has it: `model.language_model.layers.0` is `model.layers.0`.

    Adapters of one base are saved under either, as it was loaded with or without its other senses.
    """
    return _LANGUAGE_HEAD.sub("", _LANGUAGE.sub("model.", module))


def stacked(modules: Iterable[str], targets: Sequence[str], parameters: Sequence[str]) -> dict[str, str]:
    """Return which parameter of a module of experts each path among `modules` stands for, if any.

    PEFT wraps the module once for each of its `parameters` that `targets` (ends of paths) name, the first innermost:
    its tensors lie under `experts.base_layer`, those of the last under `experts`.
    """
    depths: dict[str, list[str]] = {}
    for module in sorted(modules, key=len, reverse=True):
        depths.setdefault(module.replace(_WRAPPED, ""), []).append(module)
    found: dict[str, str] = {}
    for experts, paths in depths.items():
        names = [name for name in parameters if any(f".{experts}.{name}".endswith(f".{each}") for each in targets)]
        if len(names) == len(paths):
            found |= {path: f"{experts}.{name}" for path, name in zip(paths, names, strict=True)}
    return found


def kind(module: str) -> str:
    """Return the last part of a module path that is not a number: `q_proj` of `model.layers.0.self_attn.q_proj`."""
    parts = [part for part in module.split(".") if not part.isdigit()]
    return parts[-1] if parts else module
