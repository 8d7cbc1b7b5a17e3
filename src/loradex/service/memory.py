"""Shares of memory, as vLLM and TensorRT-LLM give them, made into bytes before any is taken."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Final

from loradex.engine.config import EngineConfig
from loradex.engine.factory import engine_part
from loradex.engine.memory import GIB, require_memory, weight_bytes
from loradex.errors import ConfigInvalid, MemoryShort
from loradex.settings import Settings

_WORK: Final = 16
"""One part in so many is kept for what a step computes with."""


def with_memory(settings: Settings) -> Settings:
    """Return the settings with bytes for the shares in them.

    `gpu_memory_utilization` has no effect on a CPU: what others need of its memory is not ours to guess.

    Raises:
        ConfigInvalid: a share is none.
        MemoryShort: it is too small for weights and adapters.
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


def check_memory(settings: Settings) -> None:
    """Check that what the settings ask for fits into the memory that is free now, and take none of it.

    Raises:
        ConfigInvalid: there is no such model or device.
        MemoryShort: it does not fit.
    """
    require_memory(_placed(settings), base_folder(settings), free_memory(settings))


def free_memory(settings: Settings) -> int | None:
    """Return the bytes that may still be used where the engine computes; None where that is not known."""
    device = engine_part(settings.engine_name, "device")
    return None if device is None else device.free_memory(device.find_device(settings.engine.device))


def base_folder(settings: Settings) -> Path:
    """Return the folder of the base model, which is fetched from the hub where it is no folder.

    Raises:
        ConfigInvalid: there is no such model.
    """
    model = engine_part(settings.engine_name, "model")
    name, revision = settings.engine.model, settings.engine.revision
    return Path(name) if model is None else model.find(name, revision)


def base_bytes(settings: Settings) -> dict[str, int]:
    """Return the bytes for `weights` and `kv_cache`, as `check_memory` counts them."""
    weights = weight_bytes(_placed(settings), base_folder(settings))
    return {"weights": weights, "kv_cache": settings.engine.kv_cache_memory}


def _placed(settings: Settings) -> EngineConfig:
    """Return the engine's settings with the device that `auto` is."""
    part = engine_part(settings.engine_name, "device")
    if part is None:
        return settings.engine
    return replace(settings.engine, device=str(part.find_device(settings.engine.device)))


def _left(settings: Settings, utilization: float, free: int, total: int) -> int:
    """Return the bytes that are left for keys and values."""
    wanted = {
        "weights": weight_bytes(replace(settings.engine, device="cuda"), base_folder(settings)),
        "adapters": settings.adapter_memory or 0,
    }
    budget = int(utilization * total) - (total - free)
    usable = budget - budget // _WORK
    left = usable - sum(wanted.values())
    if left < 1:
        enough = sum(wanted.values()) <= free - free // _WORK
        fix = "Raise it, or lower" if enough else "Free some of the card's memory, lower"
        raise MemoryShort(
            max(usable, 0),
            wanted,
            hint=f"`--gpu-memory-utilization` gives that much of the {free / GIB:.2f} GiB that are free. "
            f"{fix} `--adapter-memory`, or quantize with `--quantization`",
            param="gpu_memory_utilization",
        )
    return left
