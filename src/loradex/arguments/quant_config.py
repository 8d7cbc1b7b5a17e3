"""QuantConfig: how the base is rounded, in TensorRT-LLM's words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from loradex.engine.config import CacheDType, Quantization
from loradex.errors import Unsupported


class QuantAlgo(StrEnum):
    """Algorithms of TensorRT-LLM that have a counterpart here, and those that are refused by name."""

    NO_QUANT = "NO_QUANT"
    W8A16 = "W8A16"
    W4A16 = "W4A16"
    INT8 = "INT8"
    FP8 = "FP8"
    W4A16_AWQ = "W4A16_AWQ"
    W4A8_AWQ = "W4A8_AWQ"
    W4A16_GPTQ = "W4A16_GPTQ"
    W8A16_GPTQ = "W8A16_GPTQ"
    W8A8_SQ_PER_CHANNEL = "W8A8_SQ_PER_CHANNEL"
    FP8_PER_CHANNEL_PER_TOKEN = "FP8_PER_CHANNEL_PER_TOKEN"
    FP8_BLOCK_SCALES = "FP8_BLOCK_SCALES"
    NVFP4 = "NVFP4"
    MIXED_PRECISION = "MIXED_PRECISION"


_WEIGHTS: Final[Mapping[QuantAlgo | None, Quantization]] = {
    None: "none",
    QuantAlgo.NO_QUANT: "none",
    QuantAlgo.W8A16: "int8",
    QuantAlgo.INT8: "int8",
    QuantAlgo.W4A16: "int4",
    QuantAlgo.FP8: "fp8",
}
_CACHE: Final[Mapping[QuantAlgo | None, CacheDType]] = {
    None: "auto",
    QuantAlgo.NO_QUANT: "auto",
    QuantAlgo.FP8: "fp8",
}


@dataclass(slots=True)
class QuantConfig:
    """How the base's weights, and keys and values, are rounded. Adapters stay as they are.

    Attributes:
        quant_algo: of the weights: INT8 and W8A16 are `int8`, W4A16 is `int4`, FP8 needs a card that computes in it.
        kv_cache_quant_algo: of keys and values: FP8 or none.
    """

    quant_algo: QuantAlgo | None = None
    kv_cache_quant_algo: QuantAlgo | None = None

    @property
    def quantization(self) -> Quantization:
        """The engine's name for `quant_algo`. Raises Unsupported where it has none."""
        if self.quant_algo not in _WEIGHTS:
            raise _refused("quant_algo", self.quant_algo, _WEIGHTS)
        return _WEIGHTS[self.quant_algo]

    @property
    def kv_cache_dtype(self) -> CacheDType:
        """The engine's name for `kv_cache_quant_algo`. Raises Unsupported where it has none."""
        if self.kv_cache_quant_algo not in _CACHE:
            raise _refused("kv_cache_quant_algo", self.kv_cache_quant_algo, _CACHE)
        return _CACHE[self.kv_cache_quant_algo]


def _refused(name: str, value: object, offered: Mapping[QuantAlgo | None, str]) -> Unsupported:
    listed = ", ".join(algo for algo in offered if algo is not None)
    return Unsupported(f"{name} {value} is not offered", hint=f"Use one of {listed}", param=name)
