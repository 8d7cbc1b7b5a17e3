"""From the arguments of `LLM`, in the words of three systems, to settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Final

from loradex.engine.config import EngineConfig
from loradex.errors import ConfigInvalid, Unsupported, near
from loradex.llm.lora_config import LoraConfig
from loradex.llm.quant_config import QuantConfig
from loradex.settings import Settings

PATIENCE: Final = 1e9
"""Seconds that a prompt may wait for its adapter: offline nobody waits for a reply, so that none is refused."""

_KEYS: Final = {each.name: f"engine.{each.name}" for each in fields(EngineConfig)} | {
    name: name for name in ("adapter_memory", "adapter_host_memory", "adapter_ttl", "max_adapter_size", "queue_timeout")
}
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
    "backend": ("pytorch",),
    "load_format": ("auto", "safetensors"),
    "lora_dtype": ("auto",),
    "runner": ("auto", "generate"),
    "task": ("auto", "generate"),
}
"""Arguments of others that are taken with these values, which ask for nothing that is not so anyway."""

_NOTHING: Final = frozenset(
    {
        *("trust_remote_code", "enforce_eager", "swap_space", "disable_log_stats", "tokenizer_mode", "attn_backend"),
        *("enable_chunked_prefill", "fully_sharded_loras", "disable_custom_all_reduce", "tokenizer_revision"),
        *("distributed_executor_backend", "max_seq_len_to_capture", "lora_extra_vocab_size"),
    }
)
"""Arguments of others that change nothing of an answer, whatever they say."""

_DTYPES: Final = {"half": "float16", "float": "float32"}


def read_settings(model: str | Path, home: Path, arguments: Mapping[str, Any]) -> Settings:
    """Return the settings that the arguments mean; those that are None were not given.

    What is not given comes from the environment, from `loradex.toml`, or is the default, as for every command.

    Raises:
        ConfigInvalid: an argument is unknown, contradicts another one, or has a value that is none.
        Unsupported: it asks for what is not offered.
    """
    given = {name: value for name, value in arguments.items() if value is not None}
    lora: LoraConfig | None = given.pop("lora_config", None)
    quant: QuantConfig | None = given.pop("quant_config", None)
    flags: dict[str, Any] = {"engine.model": str(model), "home": home, "queue_timeout": PATIENCE}
    for name in ("max_lora_rank", "max_loras", "max_cpu_loras"):
        _join(given, name, getattr(lora, name, None), "lora_config")
    if quant is not None:
        _join(given, "quantization", quant.quantization, "quant_config")
        _join(given, "kv_cache_dtype", quant.kv_cache_dtype, "quant_config")
    _check_counts(given.get("max_loras"), given.pop("max_cpu_loras", None))
    for name, value in given.items():
        key = _key(name, value, str(model))
        if key is not None:
            flags[key] = _dtype(value) if name == "dtype" else value
    return Settings.read(flags)


def _key(name: str, value: object, model: str) -> str | None:
    """Return the key of a setting, or None for an argument that asks for nothing."""
    if name in _KEYS or name in _ALSO:
        return _KEYS.get(name) or _ALSO[name]
    only = (model, Path(model)) if name == "tokenizer" else _ONLY.get(name)
    if only is not None and value not in only:
        raise Unsupported(f"{name} is {value!r}; only {only[0]!r} is offered", hint=f"Leave `{name}` out", param=name)
    if only is not None or name in _NOTHING:
        return None
    close = near(name, [*_KEYS, *_ALSO, *_ONLY, *_NOTHING, "lora_config", "peft_cache_config", "quant_config"])
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
