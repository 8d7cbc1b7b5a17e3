"""An adapter as it lies on disk, read and understood but not yet loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from loradex.adapters.vocabulary import Vocabulary
from loradex.core.model import ModelInfo


@dataclass(frozen=True, slots=True)
class LoraLayer:
    """The low-rank pair of one linear: `y += scaling * (x A^T) B^T`.

    `a` names the tensor `[rank, in_features]`, `b` the tensor `[out_features, rank]` in the weights file. In the pair
    of an `embedding` the inputs are the vocabulary, and a token takes its column of A. For a parameter that stacks the
    weights of `experts`, the tensors hold a pair for each: `[experts * rank, in_features]`, expert by expert, and
    `[out_features, rank * experts]`, in which the expert changes fastest.
    """

    module: str
    rank: int
    scaling: float
    in_features: int
    out_features: int
    a: str
    b: str
    embedding: bool = False
    experts: int = 0

    @property
    def parameters(self) -> int:
        """Number of weights."""
        return max(1, self.experts) * self.rank * (self.in_features + self.out_features)


Role = Literal["magnitude", "pair_bias", "tokens", "weight", "bias", "base_weight"]
"""What a tensor that is no half of a pair does for its module; all lengths are in values.

    magnitude    `[out]`: DoRA's length of each row of `W + scaling * B A`; for an embedding of each column
    pair_bias    `[out]`: `lora_bias`, added to the product of the pair and scaled with it
    tokens       `[tokens, width]`: rows of an embedding that replace the base's, and those of a head that is tied to it
    weight       what `modules_to_save` puts in the place of the base's; a tied module keeps the base's
    bias         what stands in the place of the base's
    base_weight  the base's own weight as PEFT saves it beside an adapted or resized embedding, for tied modules too
"""


@dataclass(frozen=True, slots=True)
class Extra:
    """A tensor of an adapter that is no half of a low-rank pair."""

    module: str
    role: Role
    tensor: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Adapter:
    """One version's content.

    Attributes:
        digest: SHA-256, in hexadecimal, over configuration and weights.
        path: folder with `adapter_config.json` and `adapter_model.safetensors`.
        layers: one entry for each adapted linear, embedding or stack of experts, by its path in the base model.
        rank: the largest rank in it.
        parameters: number of weights.
        bytes: size of the weights file.
        base_model: what its configuration calls the base, or None.
        extras: the tensors beside the pairs.
        tokens: by module, the token ids that the rows of its `tokens` are for.
        invocation: token ids from whose last occurrence in a prompt on it acts; empty: it acts from the beginning.
        vocabulary: the tokens that it adds to the base's tokenizer, None where it brings no tokenizer.
        absent: names in `modules_to_save` for which there is no tensor: the base must have no such module.
    """

    digest: str
    path: Path
    layers: Mapping[str, LoraLayer]
    rank: int
    parameters: int
    bytes: int
    base_model: str | None
    extras: tuple[Extra, ...] = ()
    tokens: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    absent: tuple[str, ...] = ()
    invocation: tuple[int, ...] = ()
    vocabulary: Vocabulary | None = None

    @property
    def weights(self) -> Path:
        """The safetensors file."""
        return self.path / "adapter_model.safetensors"

    def vocab_size(self, base: ModelInfo) -> int:
        """Return how many token ids there are under it: it may bring an embedding and a head with other rows."""
        ends = {each.module: each.shape[0] for each in self.extras if each.role in ("weight", "base_weight")}
        return ends.get(base.embedding) or ends.get(base.head) or base.vocab_size
