"""An adapter as it lies on disk, read and understood but not yet loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class LoraLayer:
    """The low-rank pair of one linear: `y += scaling * (x A^T) B^T`.

    `a` names the tensor `[rank, in_features]`, `b` the tensor `[out_features, rank]` in the weights file.
    """

    module: str
    rank: int
    scaling: float
    in_features: int
    out_features: int
    a: str
    b: str


@dataclass(frozen=True, slots=True)
class Adapter:
    """One version's content.

    Attributes:
        digest: SHA-256, in hexadecimal, over configuration and weights.
        path: folder with `adapter_config.json` and `adapter_model.safetensors`.
        layers: one entry for each adapted linear, by the module path of the base model.
        rank: the largest rank in it.
        parameters: number of weights.
        bytes: size of the weights file.
        base_model: what its configuration calls the base, or None.
    """

    digest: str
    path: Path
    layers: Mapping[str, LoraLayer]
    rank: int
    parameters: int
    bytes: int
    base_model: str | None

    @property
    def weights(self) -> Path:
        """The safetensors file."""
        return self.path / "adapter_model.safetensors"
