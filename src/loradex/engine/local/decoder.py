"""The form that most decoders have: what their modules are called, and in which order they act on each other.

Names promise nothing about what is computed between the modules: whoever builds on a form compares what comes out with
what the model itself says.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn

from loradex.engine.local.linear import LoraLinear
from loradex.engine.local.norm import quickened

_LAYER = {"input_layernorm", "self_attn", "post_attention_layernorm", "mlp"}
_ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj"}
_NORMED = {"q_norm", "k_norm"}
_GATED = {"gate_proj", "up_proj", "down_proj"}
_WHOLE = {"embed_tokens", "layers", "norm", "rotary_emb"}


class Norm(NamedTuple):
    """A root-mean-square norm, of `[width]` weights."""

    weight: torch.Tensor
    epsilon: float


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer: each of `query`, `key`, `value` of the normed input, their heads normed where there are norms for it,
    rotated and attended, then `output`; `down` of the product of SiLU of `gate` with `up`. Both are added to the input.
    """

    index: int
    before: Norm
    query: LoraLinear
    key: LoraLinear
    value: LoraLinear
    query_norm: Norm | None
    key_norm: Norm | None
    output: LoraLinear
    after: Norm
    gate: LoraLinear
    up: LoraLinear
    down: LoraLinear


@dataclass(frozen=True, slots=True)
class Decoder:
    """A whole model: `rotary` gives cosines and sines `[1, rows, head dim]` for hidden states and positions."""

    embedding: nn.Module
    rotary: Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
    layers: tuple[Layer, ...]
    norm: Norm
    head: nn.Module


def recognized(module: nn.Module) -> Decoder | None:
    """Return the parts of a model that has this form and norms that our kernel computes; None for any other."""
    parts: Any = getattr(module, "model", None)
    if parts is None or set(dict(parts.named_children())) != _WHOLE:
        return None
    layers = [_layer(index, layer) for index, layer in enumerate(parts.layers)]
    head, norm = getattr(module, "lm_head", None), _norm(parts.norm)
    if head is None or norm is None or not layers or None in layers:
        return None
    found = tuple(layer for layer in layers if layer is not None)
    return Decoder(parts.embed_tokens, parts.rotary_emb, found, norm, head)


def _layer(index: int, layer: Any) -> Layer | None:
    if set(dict(layer.named_children())) != _LAYER:
        return None
    attention, mlp = dict(layer.self_attn.named_children()), dict(layer.mlp.named_children())
    if set(attention) not in (_ATTENTION, _ATTENTION | _NORMED) or set(mlp) != _GATED | {"act_fn"}:
        return None
    before, after = _norm(layer.input_layernorm), _norm(layer.post_attention_layernorm)
    heads = {name: _norm(attention[name]) for name in _NORMED & set(attention)}
    linears: dict[str, Any] = {name: each for name, each in (attention | mlp).items() if isinstance(each, LoraLinear)}
    known = set(linears) == _ATTENTION | _GATED and _silu(mlp["act_fn"])
    if before is None or after is None or None in heads.values() or not known:
        return None
    return Layer(
        index=index,
        before=before,
        query=linears["q_proj"],
        key=linears["k_proj"],
        value=linears["v_proj"],
        query_norm=heads.get("q_norm"),
        key_norm=heads.get("k_norm"),
        output=linears["o_proj"],
        after=after,
        gate=linears["gate_proj"],
        up=linears["up_proj"],
        down=linears["down_proj"],
    )


def _silu(activation: nn.Module) -> bool:
    x = torch.linspace(-8, 8, 33)
    return torch.equal(activation(x), nn.functional.silu(x))


def _norm(module: Any) -> Norm | None:
    return None if quickened(module) is None else Norm(module.weight, module.variance_epsilon)
