"""The shape to measure on: Qwen2.5-0.5B, and the three classes of adapters. Only numbers and names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from loradex.core.model import LinearShape
from loradex.errors import ConfigInvalid, near


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of a Qwen2 model with tied embeddings."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int
    positions: int = 32768

    def config(self) -> dict[str, Any]:
        """Return its `config.json`."""
        return {
            "architectures": ["Qwen2ForCausalLM"],
            "model_type": "qwen2",
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "vocab_size": self.vocabulary,
            "max_position_embeddings": self.positions,
            "max_window_layers": self.layers,
            "hidden_act": "silu",
            "initializer_range": 0.02,
            "rms_norm_eps": 1e-6,
            "rope_theta": 1000000.0,
            "tie_word_embeddings": True,
            "use_sliding_window": False,
            "attention_dropout": 0.0,
            "bos_token_id": None,
            "eos_token_id": 2,
            "pad_token_id": 0,
            "use_cache": True,
            "torch_dtype": "bfloat16",
        }

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of every tensor of the checkpoint; those with one dimension are norms and biases."""
        found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (self.vocabulary, self.hidden)}
        for layer in range(self.layers):
            prefix = f"model.layers.{layer}"
            for name, linear in self._linears().items():
                found[f"{prefix}.{name}.weight"] = (linear.out_features, linear.in_features)
                if name in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"):
                    found[f"{prefix}.{name}.bias"] = (linear.out_features,)
            found[f"{prefix}.input_layernorm.weight"] = (self.hidden,)
            found[f"{prefix}.post_attention_layernorm.weight"] = (self.hidden,)
        return found | {"model.norm.weight": (self.hidden,)}

    def linears(self) -> dict[str, LinearShape]:
        """Return every linear that adapters may target, by module path."""
        own = self._linears()
        return {f"model.layers.{i}.{name}": shape for i in range(self.layers) for name, shape in own.items()}

    def _linears(self) -> dict[str, LinearShape]:
        head = self.hidden // self.heads
        narrow = LinearShape(self.hidden, head * self.kv_heads)
        return {
            "self_attn.q_proj": LinearShape(self.hidden, self.hidden),
            "self_attn.k_proj": narrow,
            "self_attn.v_proj": narrow,
            "self_attn.o_proj": LinearShape(self.hidden, self.hidden),
            "mlp.gate_proj": LinearShape(self.hidden, self.intermediate),
            "mlp.up_proj": LinearShape(self.hidden, self.intermediate),
            "mlp.down_proj": LinearShape(self.intermediate, self.hidden),
        }


SHAPES: Final[Mapping[str, Shape]] = {
    "qwen2.5-0.5b": Shape(896, 4864, 24, 14, 2, 151936),
    "tiny": Shape(64, 128, 2, 4, 2, 512, 512),
}

ATTENTION: Final = ("q_proj", "k_proj", "v_proj", "o_proj")
ALL: Final = (*ATTENTION, "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True, slots=True)
class AdapterClass:
    """What the adapters of a class adapt, and their ranks, in turn."""

    name: str
    modules: tuple[str, ...]
    ranks: tuple[int, ...]

    def rank(self, index: int) -> int:
        """Return the rank of the adapter with that number."""
        return self.ranks[index % len(self.ranks)]


CLASSES: Final[Mapping[str, AdapterClass]] = {
    "a-small": AdapterClass("a-small", ATTENTION, (8,)),
    "a-ref": AdapterClass("a-ref", ALL, (16,)),
    "a-mix": AdapterClass("a-mix", ALL, (8, 16, 32, 64)),
}


def adapter_class(name: str) -> AdapterClass:
    """Return the class of that name.

    Raises:
        ConfigInvalid: there is none.
    """
    if name not in CLASSES:
        close = ", ".join(near(name, CLASSES) or CLASSES)
        raise ConfigInvalid(f"There is no adapter class {name!r}", hint=f"Classes: {close}")
    return CLASSES[name]


def model_shape(name: str) -> Shape:
    """Return the model shape of that name.

    Raises:
        ConfigInvalid: there is none.
    """
    if name not in SHAPES:
        close = ", ".join(near(name, SHAPES) or SHAPES)
        raise ConfigInvalid(f"There is no model shape {name!r}", hint=f"Shapes: {close}")
    return SHAPES[name]
