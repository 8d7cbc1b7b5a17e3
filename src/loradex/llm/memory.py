"""Shares of memory, as vLLM and TensorRT-LLM give them, made into bytes before any is taken."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Final

from loradex.engine.factory import engine_part
from loradex.errors import ConfigInvalid
from loradex.llm.cache_config import PeftCacheConfig
from loradex.settings import Settings

_WORK: Final = 16
"""One part in so many is kept for what a step computes with."""

_GIB: Final = 1 << 30


def with_memory(settings: Settings, cache: PeftCacheConfig | None, utilization: float | None) -> Settings:
    """Return the settings with these budgets.

    Args:
        settings: what else was asked.
        cache: for adapters.
        utilization: share of a card's memory for weights, adapters, keys and values together. On a CPU it has no
            effect: what others need of its memory is not ours to guess.

    Raises:
        ConfigInvalid: the share is none, or too small for the weights.
    """
    if utilization is not None and not 0 < utilization <= 1:
        hint = "Give a share of the card's memory above 0 and at most 1, such as 0.9"
        raise ConfigInvalid(f"gpu_memory_utilization is {utilization}", hint=hint, param="gpu_memory_utilization")
    if cache is None and utilization is None:
        return settings
    device = engine_part(settings.engine_name, "device")
    card: tuple[int, int] | None = device.card_memory(settings.engine.device) if device is not None else None
    if cache is not None:
        settings = _on_cpu(settings, cache) if card is None else _on_card(settings, cache, card[0])
    if utilization is not None and card is not None:
        kv_cache = _left(settings, utilization, *card)
        settings = replace(settings, engine=replace(settings.engine, kv_cache_memory=kv_cache))
    return settings


def _on_cpu(settings: Settings, cache: PeftCacheConfig) -> Settings:
    size = cache.host_cache_size
    if size is None and cache.device_cache_percent is not None:
        size = int(cache.device_cache_percent * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return settings if size is None else replace(settings, adapter_memory=size)


def _on_card(settings: Settings, cache: PeftCacheConfig, free: int) -> Settings:
    if cache.host_cache_size is not None:
        settings = replace(settings, adapter_host_memory=cache.host_cache_size)
    if cache.device_cache_percent is not None:
        settings = replace(settings, adapter_memory=int(cache.device_cache_percent * free))
    return settings


def _left(settings: Settings, utilization: float, free: int, total: int) -> int:
    """Return the bytes that are left for keys and values."""
    folder: Path = engine_part(settings.engine_name, "model").find(settings.engine.model, settings.engine.revision)
    weights = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    adapters = settings.adapter_memory or 0
    budget = int(utilization * total) - (total - free)
    left = budget - budget // _WORK - weights - adapters
    if left < 1:
        share, free_now, took, kept = (f"{size / _GIB:.1f} GiB" for size in (budget, free, weights, adapters))
        raise ConfigInvalid(
            f"gpu_memory_utilization {utilization} leaves {share} ({free_now} are free), of which weights take {took} "
            f"and adapters {kept}: nothing is left for keys and values",
            hint="Raise `gpu_memory_utilization`, lower `adapter_memory`, or quantize with `quantization`",
            param="gpu_memory_utilization",
        )
    return left
