"""What every format here says in its own way: low-rank pairs by the module of the base model that they adapt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from loradex.adapters.formats.tensor import Tensor


@dataclass(frozen=True, slots=True)
class Pair:
    """`y += alpha / rank * (x A^T) B^T`, with `a` as `[rank, in_features]` and `b` as `[out_features, rank]`."""

    a: Tensor
    b: Tensor
    alpha: float

    @property
    def rank(self) -> int:
        """Rows of A."""
        return self.a.shape[0]

    @property
    def scaling(self) -> float:
        """The factor on the product."""
        return self.alpha / self.rank


@dataclass(frozen=True, slots=True)
class Lora:
    """An adapter that is nothing but low-rank pairs.

    Attributes:
        pairs: by module path of the base model, such as `model.layers.0.self_attn.q_proj`.
        base_model: what it calls its base, or None.
        options: what it says beyond that, by the names that PEFT gives to them.
    """

    pairs: Mapping[str, Pair]
    base_model: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def parameters(self) -> int:
        """Number of weights."""
        return sum(pair.a.values.size + pair.b.values.size for pair in self.pairs.values())
