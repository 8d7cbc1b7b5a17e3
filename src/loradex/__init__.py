"""Loradex: one base model, a whole deck of LoRA adapters, switched at run time."""

from __future__ import annotations

# Read by type checkers as true; importing `typing` for it would triple the time that `import loradex` takes.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from loradex.arguments.cache_config import PeftCacheConfig
    from loradex.arguments.lora_config import LoraConfig
    from loradex.arguments.quant_config import QuantAlgo, QuantConfig
    from loradex.client.aio import AsyncClient
    from loradex.client.client import Client
    from loradex.core.adapter import AdapterRef
    from loradex.errors import LoradexError
    from loradex.llm.llm import LLM
    from loradex.llm.lora_request import LoRARequest
    from loradex.llm.output import CompletionOutput, RequestOutput
    from loradex.llm.sampling_params import SamplingParams
    from loradex.service.service import Service
    from loradex.settings import Settings

__version__ = "0.1.0"

# Imported when first asked for, so that `import loradex` is instant and needs no optional dependency.
_HOMES = {
    "AdapterRef": "loradex.core.adapter",
    "AsyncClient": "loradex.client.aio",
    "Client": "loradex.client.client",
    "CompletionOutput": "loradex.llm.output",
    "LLM": "loradex.llm.llm",
    "LoRARequest": "loradex.llm.lora_request",
    "LoraConfig": "loradex.arguments.lora_config",
    "LoradexError": "loradex.errors",
    "PeftCacheConfig": "loradex.arguments.cache_config",
    "QuantAlgo": "loradex.arguments.quant_config",
    "QuantConfig": "loradex.arguments.quant_config",
    "RequestOutput": "loradex.llm.output",
    "SamplingParams": "loradex.llm.sampling_params",
    "Service": "loradex.service.service",
    "Settings": "loradex.settings",
}

__all__ = [
    "LLM",
    "AdapterRef",
    "AsyncClient",
    "Client",
    "CompletionOutput",
    "LoRARequest",
    "LoraConfig",
    "LoradexError",
    "PeftCacheConfig",
    "QuantAlgo",
    "QuantConfig",
    "RequestOutput",
    "SamplingParams",
    "Service",
    "Settings",
    "__version__",
    "errors",
]


def __getattr__(name: str) -> object:
    from importlib import import_module

    if name == "errors":
        return import_module("loradex.errors")
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'loradex' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
