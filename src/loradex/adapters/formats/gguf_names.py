"""What llama.cpp calls architectures and tensors, and the order in which it keeps rows (`conversion/*.py` there)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

ARCHITECTURES: Final[Mapping[str, str]] = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "llama",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
    "Qwen3MoeForCausalLM": "qwen3moe",
    "GemmaForCausalLM": "gemma",
    "Gemma2ForCausalLM": "gemma2",
    "Gemma3ForCausalLM": "gemma3",
    "Phi3ForCausalLM": "phi3",
}
"""The architecture in GGUF of each of transformers' classes whose tensor names are known here."""

_ATTENTION: Final = {"attn_output": "self_attn.o_proj", "ffn_down": "mlp.down_proj"}
_SEPARATE: Final = {
    **_ATTENTION,
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
}
_FUSED: Final = {**_ATTENTION, "attn_qkv": "self_attn.qkv_proj", "ffn_up": "mlp.gate_up_proj"}

_BLOCK = re.compile(r"blk\.(?P<layer>\d{1,6})\.(?P<part>\w+)\.weight\.lora_(?P<side>[ab])")
_HEAD = re.compile(r"output\.weight\.lora_(?P<side>[ab])")
_MODULE = re.compile(r"model\.layers\.(?P<layer>\d+)\.(?P<part>\w+\.\w+)")


def parse_name(name: str, architecture: str) -> tuple[str, Literal["a", "b"]] | None:
    """Return the module of transformers and the side that a tensor's name means; None for what is no linear's pair."""
    match = _HEAD.fullmatch(name) or _BLOCK.fullmatch(name)
    if match is None:
        return None
    side: Literal["a", "b"] = "a" if match["side"] == "a" else "b"
    if match.re is _HEAD:
        return "lm_head", side
    part = _parts(architecture).get(match["part"])
    return (f"model.layers.{int(match['layer'])}.{part}", side) if part else None


def tensor_name(module: str, architecture: str) -> str | None:
    """Return the name of a module's weight, or None where llama.cpp has no place for it."""
    if module == "lm_head":
        return "output.weight"
    match = _MODULE.fullmatch(module)
    part = next((part for part, path in _parts(architecture).items() if match and path == match["part"]), None)
    return f"blk.{match['layer']}.{part}.weight" if match and part else None


def keeps_heads_apart(module: str, architecture: str) -> bool:
    """Whether GGUF keeps the rows of this linear in the order of `head_order`."""
    return architecture == "llama" and module.endswith((".q_proj", ".k_proj"))


def head_order(rows: int, head_dim: int) -> NDArray[np.intp]:
    """Return, for each row of a `llama`'s q or k, which row of transformers' it is.

    Rotary embedding turns pairs of rows. Within a head transformers pairs row i with row i + half, and llama.cpp
    neighbours: the halves interleave.
    """
    return np.arange(rows).reshape(-1, 2, head_dim // 2).swapaxes(1, 2).reshape(-1)


def _parts(architecture: str) -> Mapping[str, str]:
    return _FUSED if architecture == "phi3" else _SEPARATE
