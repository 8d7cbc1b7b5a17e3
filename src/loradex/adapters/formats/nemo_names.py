"""What NeMo and Megatron-Bridge call the low-rank pairs of a layer, and how they split and fuse them.

`linear_in` is A `[rank, in]`, `linear_out` is B `[out, rank]`. NeMo 1 hangs its adapters beside the modules, NeMo 2 and
Megatron-Bridge inside them; a canonical adapter has one pair for each of q, k, v, gate and up, the others share A among
q, k and v, and among gate and up. (NeMo's `parallel_adapters.py` and `lora_converter.py`, Megatron-Bridge's
`canonical_lora.py`.)
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal

Split = Literal["column", "row"]
"""How tensor-parallel ranks split the base's linear: its outputs (A and B by rows), or its inputs (A by columns)."""

_QKV: Final = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
_GATE_UP: Final = ("mlp.gate_proj", "mlp.up_proj")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a pair goes: the linears of transformers that it adapts, in the order of its rows."""

    parts: tuple[str, ...]
    split: Split = "column"


_PLACES: Final[dict[str, Place]] = {
    "self_attention.adapter_layer.lora_kqv_adapter": Place(_QKV),
    "self_attention.adapter_layer.lora_unfused_kqv_adapter.q_adapter": Place(_QKV[:1]),
    "self_attention.adapter_layer.lora_unfused_kqv_adapter.k_adapter": Place(_QKV[1:2]),
    "self_attention.adapter_layer.lora_unfused_kqv_adapter.v_adapter": Place(_QKV[2:]),
    "self_attention.adapter_layer.lora_dense_attention_adapter": Place(("self_attn.o_proj",), "row"),
    "mlp.adapter_layer.lora_hto4h_adapter": Place(_GATE_UP),
    "mlp.adapter_layer.lora_unfused_hto4h_adapter.gate_adapter": Place(_GATE_UP[:1]),
    "mlp.adapter_layer.lora_unfused_hto4h_adapter.up_adapter": Place(_GATE_UP[1:]),
    "mlp.adapter_layer.lora_4htoh_adapter": Place(("mlp.down_proj",), "row"),
    "self_attention.linear_qkv.adapter": Place(_QKV),
    "self_attention.linear_qkv.adapter.adapter_q": Place(_QKV[:1]),
    "self_attention.linear_qkv.adapter.adapter_k": Place(_QKV[1:2]),
    "self_attention.linear_qkv.adapter.adapter_v": Place(_QKV[2:]),
    "self_attention.linear_proj.adapter": Place(("self_attn.o_proj",), "row"),
    "mlp.linear_fc1.adapter": Place(_GATE_UP),
    "mlp.linear_fc1.adapter.adapter_gate": Place(_GATE_UP[:1]),
    "mlp.linear_fc1.adapter.adapter_up": Place(_GATE_UP[1:]),
    "mlp.linear_fc2.adapter": Place(("mlp.down_proj",), "row"),
}

WRITTEN: Final[dict[str, tuple[tuple[str, str], ...]]] = {
    "attention_qkv": tuple(
        (part, f"self_attention.adapter_layer.lora_unfused_kqv_adapter.{part[10]}_adapter") for part in _QKV
    ),
    "attention_dense": (("self_attn.o_proj", "self_attention.adapter_layer.lora_dense_attention_adapter"),),
    "mlp_fc1": (
        ("mlp.gate_proj", "mlp.adapter_layer.lora_unfused_hto4h_adapter.gate_adapter"),
        ("mlp.up_proj", "mlp.adapter_layer.lora_unfused_hto4h_adapter.up_adapter"),
    ),
    "mlp_fc2": (("mlp.down_proj", "mlp.adapter_layer.lora_4htoh_adapter"),),
}
"""For each target of NeMo 1: the linears of transformers in it, and what a canonical adapter calls their pairs."""

_KEY = re.compile(r"(?:.*\.)?layers\.(?P<layer>\d{1,6})\.(?P<name>.+)\.linear_(?P<side>in|out)\.weight")


@dataclass(frozen=True, slots=True)
class Key:
    """One half of a pair: of which layer, under which name, A (`in`) or B (`out`)."""

    layer: int
    name: str
    side: Literal["in", "out"]

    @property
    def place(self) -> Place:
        """Where it goes."""
        return _PLACES[self.name]


def parse_key(text: str) -> Key | None:
    """Return what a tensor's name means, or None for what is no low-rank pair of a linear."""
    match = _KEY.fullmatch(text)
    if match is None or match["name"] not in _PLACES:
        return None
    return Key(int(match["layer"]), match["name"], "in" if match["side"] == "in" else "out")
