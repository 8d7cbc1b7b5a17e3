"""From the arguments of vLLM's and TensorRT-LLM's `LLM` to settings, by their dotted keys."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Final

from loradex.arguments.cache_config import PeftCacheConfig
from loradex.arguments.lora_config import LoraConfig
from loradex.arguments.quant_config import QuantConfig
from loradex.engine.config import EngineConfig
from loradex.errors import ConfigInvalid, Unsupported, near

CONFIGS: Final[Mapping[str, type[Any]]] = {
    "lora_config": LoraConfig,
    "peft_cache_config": PeftCacheConfig,
    "quant_config": QuantConfig,
}
"""Arguments that are made of several, each with its class."""

_OURS: Final = (
    *("adapter_memory", "adapter_host_memory", "adapter_ttl", "max_adapter_size", "queue_timeout"),
    *("adapter_memory_share", "checked_adapters", "target_modules", "gpu_memory_utilization"),
)

_KEYS: Final = {each.name: f"engine.{each.name}" for each in fields(EngineConfig)} | {name: name for name in _OURS}
"""Our own settings that may be given, each with its key."""

_ALSO: Final = {
    "engine": "engine_name",
    "max_seq_len": "engine.max_model_len",
    "max_batch_size": "engine.max_num_seqs",
    "max_num_batched_tokens": "engine.max_batched_tokens",
    "max_num_tokens": "engine.max_batched_tokens",
    "enable_prefix_caching": "engine.prefix_cache",
    "served_model_name": "engine.served_name",
}
"""How others spell them."""

_ONLY: Final[Mapping[str, tuple[object, ...]]] = {
    **dict.fromkeys(("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size"), (1,)),
    **dict.fromkeys(("skip_tokenizer_init", "enable_lora_bias"), (False,)),
    "enable_lora": (True,),
    "backend": ("pytorch",),
    "load_format": ("auto", "safetensors"),
    "lora_dtype": ("auto",),
    "runner": ("auto", "generate"),
    "task": ("auto", "generate"),
}
"""Arguments of others that are taken with these values, which ask for nothing that is not so anyway."""

_NOTHING: Final = frozenset(
    {
        *("trust_remote_code", "swap_space", "disable_log_stats", "tokenizer_mode", "attn_backend"),
        *("enable_chunked_prefill", "fully_sharded_loras", "disable_custom_all_reduce", "tokenizer_revision"),
        *("distributed_executor_backend", "max_seq_len_to_capture", "lora_extra_vocab_size"),
        *("cuda_graph_config", "disable_overlap_scheduler", "print_iter_log", "enable_iter_perf_stats"),
    }
)
"""Arguments of others that change nothing of an answer, whatever they say."""

ARGUMENTS: Final = (*_KEYS, *_ALSO, *_ONLY, *_NOTHING, *CONFIGS, "max_cpu_loras", "tokenizer")
"""Every argument that is taken."""

_DTYPES: Final = {"half": "float16", "float": "float32"}


def as_settings(arguments: Mapping[str, Any], model: str = "") -> dict[str, Any]:
    """Return the settings that the arguments mean, by key; those that are None were not given.

    Args:
        arguments: by name; those of `CONFIGS` as their classes.
        model: the base model, which is its own tokenizer.

    Raises:
        ConfigInvalid: an argument is unknown, contradicts another one, or has a value that is none.
        Unsupported: it asks for what is not offered.
    """
    given = {name: value for name, value in arguments.items() if value is not None}
    for where in CONFIGS:
        for name, value in _inner(given.pop(where, None)):
            _join(given, name, value, where)
    _check_counts(given.get("max_loras"), given.pop("max_cpu_loras", None))
    found: dict[str, Any] = {}
    for name, value in given.items():
        key = _key(name, value, model)
        if key is not None:
            found[key] = _dtype(value) if name == "dtype" else value
    return found


def _inner(config: Any) -> Iterator[tuple[str, Any]]:
    """Yield the arguments that one of TensorRT-LLM's configurations stands for."""
    if isinstance(config, LoraConfig):
        yield from ((name, getattr(config, name)) for name in ("max_lora_rank", "max_loras", "max_cpu_loras"))
        yield "checked_adapters", tuple(map(str, config.lora_dir)) or None
        yield "target_modules", config.target_modules or None
    elif isinstance(config, PeftCacheConfig):
        yield "adapter_host_memory", config.host_cache_size
        yield "adapter_memory_share", config.device_cache_percent
    elif isinstance(config, QuantConfig):
        yield "quantization", config.quantization
        yield "kv_cache_dtype", config.kv_cache_dtype


def _key(name: str, value: object, model: str) -> str | None:
    """Return the key of a setting, or None for an argument that asks for nothing."""
    if name in _KEYS or name in _ALSO:
        return _KEYS.get(name) or _ALSO[name]
    only = (model, Path(model)) if name == "tokenizer" else _ONLY.get(name)
    if only is not None and value not in only:
        raise Unsupported(f"{name} is {value!r}; only {only[0]!r} is offered", hint=f"Leave `{name}` out", param=name)
    if only is not None or name in _NOTHING:
        return None
    close = near(name, ARGUMENTS)
    hint = f"Did you mean `{close[0]}`?" if close else "See what it takes: help(loradex.LLM)"
    raise ConfigInvalid(f"`LLM` takes no argument `{name}`", hint=hint, param=name)


def _join(given: dict[str, Any], name: str, value: object, where: str) -> None:
    """Take a value from a configuration, unless the argument of that name says something else."""
    if value is None:
        return
    if given.setdefault(name, value) != value:
        raise ConfigInvalid(
            f"{name} is {given[name]!r}, and {value!r} in `{where}`", hint="Give it in one place", param=name
        )


def _check_counts(max_loras: int | None, max_cpu_loras: int | None) -> None:
    if max_cpu_loras is not None and max_cpu_loras < (max_loras or 1):
        raise ConfigInvalid(
            f"max_cpu_loras is {max_cpu_loras}, below max_loras, which is {max_loras or 1}",
            hint=f"Give `max_cpu_loras={max_loras or 1}` or more, or leave it out",
            param="max_cpu_loras",
        )


def _dtype(value: object) -> str:
    name = str(value).removeprefix("torch.")
    return _DTYPES.get(name, name)
