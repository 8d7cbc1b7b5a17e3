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
    from loradex.llm.sampling_params import GuidedDecodingParams, SamplingParams, StructuredOutputsParams
    from loradex.manager.manager import ModelManager, get_model_manager
    from loradex.manager.model import Model
    from loradex.manager.settings import ModelSettings
    from loradex.service.service import Service
    from loradex.settings import Settings

__version__ = "0.1.0"

# Imported when first asked for, so that `import loradex` is instant and needs no optional dependency.
_HOMES = {
    "AdapterRef": "loradex.core.adapter",
    "AsyncClient": "loradex.client.aio",
    "Client": "loradex.client.client",
    "CompletionOutput": "loradex.llm.output",
    "GuidedDecodingParams": "loradex.llm.sampling_params",
    "LLM": "loradex.llm.llm",
    "LoRARequest": "loradex.llm.lora_request",
    "LoraConfig": "loradex.arguments.lora_config",
    "LoradexError": "loradex.errors",
    "Model": "loradex.manager.model",
    "ModelManager": "loradex.manager.manager",
    "ModelSettings": "loradex.manager.settings",
    "PeftCacheConfig": "loradex.arguments.cache_config",
    "QuantAlgo": "loradex.arguments.quant_config",
    "QuantConfig": "loradex.arguments.quant_config",
    "RequestOutput": "loradex.llm.output",
    "SamplingParams": "loradex.llm.sampling_params",
    "Service": "loradex.service.service",
    "Settings": "loradex.settings",
    "StructuredOutputsParams": "loradex.llm.sampling_params",
    "get_model_manager": "loradex.manager.manager",
}

__all__ = [
    "LLM",
    "AdapterRef",
    "AsyncClient",
    "Client",
    "CompletionOutput",
    "GuidedDecodingParams",
    "LoRARequest",
    "LoraConfig",
    "LoradexError",
    "Model",
    "ModelManager",
    "ModelSettings",
    "PeftCacheConfig",
    "QuantAlgo",
    "QuantConfig",
    "RequestOutput",
    "SamplingParams",
    "Service",
    "Settings",
    "StructuredOutputsParams",
    "__version__",
    "errors",
    "get_model_manager",
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
