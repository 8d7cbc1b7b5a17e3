"""What an engine tells of its base model, and what an adapter must fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class LinearShape:
    """Shape of one linear of the base model: its weight is `[out_features, in_features]`."""

    in_features: int
    out_features: int


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """The base model as the rest of the house sees it.

    Attributes:
        id: the name it is served under.
        path: where it came from: a folder or a hub id.
        architecture: class name in its configuration, such as `Qwen2ForCausalLM`.
        dtype: of its weights in the engine, such as `bfloat16`.
        device: where it runs, such as `cpu` or `cuda:0`.
        vocab_size: number of token ids; prompts hold only ids below it.
        max_model_len: tokens of prompt and answer together.
        linears: every linear that an adapter may target, by its full module path
            (`model.layers.0.self_attn.q_proj`).
        digest: SHA-256, in hexadecimal, over architecture and linears: adapters are stored with it.
        has_chat_template: whether the tokenizer can render messages.
        head_dim: rows of q, k and v that belong to one head of attention; 0 where that is not known.
        quantization: how the engine rounded the weights of linears and output head, such as `int8`; `none` where not.
        kv_cache_dtype: of keys and values: `auto` is that of the weights before they were rounded.
        weight_bytes: what those weights take then, scales included; 0 where each takes what `dtype` says.
        parameters: shape of every parameter that an adapter may bring anew, by its full path (`model.norm.weight`);
            those of experts, `[experts, out, in]`, are stacked and may have low-rank pairs.
        embedding: module path of the token embedding; adapters may put a low-rank pair on it too.
        head: module path of the output head, likewise.
        tied: whether these two have one weight.
    """

    id: str
    path: str
    architecture: str
    dtype: str
    device: str
    vocab_size: int
    max_model_len: int
    linears: Mapping[str, LinearShape]
    digest: str
    has_chat_template: bool
    head_dim: int = 0
    quantization: str = "none"
    kv_cache_dtype: str = "auto"
    weight_bytes: int = 0
    parameters: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    embedding: str = ""
    head: str = ""
    tied: bool = False

    def target(self, module: str) -> LinearShape | None:
        """Return the shape of a module on which an adapter may put a low-rank pair, None for any other.

        The embedding counts as a linear from the vocabulary.
        """
        shape = self.parameters.get(f"{module}.weight", ()) if module in (self.embedding, self.head) else ()
        if module in self.linears or len(shape) != 2:
            return self.linears.get(module)
        return LinearShape(*shape) if module == self.embedding else LinearShape(shape[1], shape[0])
