"""Tensor names as PEFT writes them; no other file knows them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

PREFIX = "base_model.model."

# An adapter's own name may stand between `lora_A` and `weight`: state dicts saved without PEFT's `save_pretrained`.
_LORA = re.compile(r"(?P<module>.+)\.lora_(?P<side>[AB])(?:\.(?P<adapter>[^.]+))?\.weight", re.DOTALL)

Foreign = Literal[
    "embeddings", "dora", "lora_bias", "kasa", "trainable_tokens", "bias", "modules_to_save", "full", "unknown"
]
"""What a tensor that is no half of a low-rank pair belongs to; `full` is a whole weight of the base."""

# Tensors of options that are understood but not served, by a part of their name.
_FOREIGN: tuple[tuple[re.Pattern[str], Foreign], ...] = (
    (re.compile(r"\.lora_embedding_[AB]\b"), "embeddings"),
    (re.compile(r"\.lora_magnitude_vector\b"), "dora"),
    (re.compile(r"\.lora_[AB](?:\.[^.]+)?\.bias$"), "lora_bias"),
    (re.compile(r"\.lora_diag\b"), "kasa"),
    (re.compile(r"\.token_adapter\.|\.trainable_tokens_"), "trainable_tokens"),
    (re.compile(r"\.bias$"), "bias"),
    (re.compile(r"(?:\.modules_to_save\.|\.base_layer\.|\.original_module\.)"), "modules_to_save"),
)


@dataclass(frozen=True, slots=True)
class Key:
    """One half of the low-rank pair of a module. `adapter` is the name infix, empty in what PEFT saves."""

    module: str
    side: Literal["A", "B"]
    adapter: str = ""

    def __str__(self) -> str:
        infix = f".{self.adapter}" if self.adapter else ""
        return f"{PREFIX}{self.module}.lora_{self.side}{infix}.weight"


def parse_key(name: str) -> Key | None:
    """Return the module path in the base model and the side that a tensor name means, or None for any other tensor."""
    match = _LORA.fullmatch(name.removeprefix(PREFIX))
    if match is None or ".lora_" in match["module"]:
        return None
    return Key(match["module"], "A" if match["side"] == "A" else "B", match["adapter"] or "")


def foreign(name: str) -> Foreign:
    """Return the option to which a tensor belongs that `parse_key` does not understand."""
    for pattern, option in _FOREIGN:
        if pattern.search(name):
            return option
    return "full" if name.endswith(".weight") and ".lora_" not in name else "unknown"


def kind(module: str) -> str:
    """Return the last part of a module path that is not a number: `q_proj` of `model.layers.0.self_attn.q_proj`."""
    parts = [part for part in module.split(".") if not part.isdigit()]
    return parts[-1] if parts else module
