"""Shares of memory, as vLLM and TensorRT-LLM give them, made into bytes before any is taken."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Final

from loradex.engine.factory import engine_part
from loradex.errors import ConfigInvalid
from loradex.settings import Settings

_WORK: Final = 16
"""One part in so many is kept for what a step computes with."""

_GIB: Final = 1 << 30


def with_memory(settings: Settings) -> Settings:
    """Return the settings with bytes for the shares in them.

    `gpu_memory_utilization` has no effect on a CPU: what others need of its memory is not ours to guess.

    Raises:
        ConfigInvalid: a share is none, or too small for the weights.
    """
    share, utilization = settings.adapter_memory_share, settings.gpu_memory_utilization
    if utilization is not None and not 0 < utilization <= 1:
        hint = "Give a share of the card's memory above 0 and at most 1, such as 0.9"
        raise ConfigInvalid(f"gpu_memory_utilization is {utilization}", hint=hint, param="gpu_memory_utilization")
    if share is not None and not 0 < share <= 1:
        hint = "Give a share of the free memory above 0 and at most 1, such as 0.1 for 10 %"
        raise ConfigInvalid(f"adapter_memory_share is {share}", hint=hint, param="adapter_memory_share")
    host = "adapter_host_memory" in settings.sources and "adapter_memory" not in settings.sources
    if share is None and utilization is None and not host:
        return settings
    device = engine_part(settings.engine_name, "device")
    card: tuple[int, int] | None = device.card_memory(settings.engine.device) if device is not None else None
    if card is None and host:
        return replace(settings, adapter_memory=settings.adapter_host_memory)
    if share is not None:
        free = card[0] if card is not None else os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        settings = replace(settings, adapter_memory=int(share * free))
    if utilization is not None and card is not None:
        kv_cache = _left(settings, utilization, *card)
        settings = replace(settings, engine=replace(settings.engine, kv_cache_memory=kv_cache))
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
            hint="Raise `--gpu-memory-utilization`, lower `--adapter-memory`, or quantize with `--quantization`",
            param="gpu_memory_utilization",
        )
    return left
