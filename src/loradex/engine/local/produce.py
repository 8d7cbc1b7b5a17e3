"""What is made of a base model once, for all later starts: a quantized checkpoint, an engine directory."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, replace
from pathlib import Path

from loradex.adapters.base_model import BUILT
from loradex.core.model import ModelInfo
from loradex.engine.base import Progress
from loradex.engine.built import WEIGHTS, Limits
from loradex.engine.config import EngineConfig
from loradex.engine.exported import EXPORT
from loradex.engine.local.checkpoint import read_plain
from loradex.engine.local.engine import LocalEngine
from loradex.engine.local.model import find
from loradex.engine.local.quantized import quantize, quantized_linears
from loradex.engine.local.rounded_checkpoint import FILE, write_rounded
from loradex.engine.made_folder import copy_texts, made_folder
from loradex.errors import ConfigInvalid


@dataclass(frozen=True, slots=True)
class Quantized:
    """What a quantization wrote: how many linears, and the bytes of all weights before and after."""

    folder: Path
    method: str
    linears: int
    bytes_before: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Built:
    """What a build wrote, and the seconds that a start took from the checkpoint and takes from the directory."""

    folder: Path
    model: ModelInfo
    limits: Limits
    bytes: int
    checkpoint_seconds: float
    start_seconds: float


def write_quantized(config: EngineConfig, out: Path, tell: Progress) -> Quantized:
    """Write the checkpoint of `config.model` with its linears rounded by `config.quantization`, on any machine.

    Raises:
        ConfigInvalid: there is no model, it cannot be read, or it is quantized already; or the disk refuses.
        Conflict: something that is no checkpoint lies at `out`.
    """
    source = find(config.model, config.revision)
    before = sum(file.stat().st_size for file in source.glob("*.safetensors"))
    module = read_plain(source, config.dtype)
    with made_folder(out, "config.json") as folder:
        copy_texts(source, folder)
        module.config.save_pretrained(folder)
        quantize(module, config.quantization, lambda share: tell("quantize", share))
        count = len(quantized_linears(module))
        write_rounded(module, folder, config.quantization, lambda share: tell("write", share))
    return Quantized(out, config.quantization, count, before, (out / FILE).stat().st_size)


async def build(config: EngineConfig, limits: Limits, out: Path, tell: Progress) -> Built:
    """Start an engine from a checkpoint or an export, write it as an engine directory, and start that once.

    Raises:
        ConfigInvalid: the model cannot be served, a limit is beyond it, or the device has no such layout.
        Conflict: something that is no engine directory lies at `out`.
    """
    if config.device not in ("auto", "cpu"):
        raise ConfigInvalid(
            f"Engine directories are for CPUs, not {config.device}",
            hint=f"Start from the export: loradex serve {config.model} --device {config.device}",
        )
    config = replace(config, device="cpu")
    with made_folder(out, BUILT) as folder:
        seconds, engine = await _started(config, tell)
        try:
            info = engine.info
            limits = _fitting(limits, info)
            copy_texts(find(config.model, config.revision), folder, but=frozenset((EXPORT,)))
            await asyncio.to_thread(engine.write, folder, limits, lambda share: tell("write", share))
        finally:
            await engine.stop()
    again, engine = await _started(EngineConfig(str(out), threads=config.threads), tell)
    await engine.stop()
    return Built(out, info, limits, (out / WEIGHTS).stat().st_size, seconds, again)


async def _started(config: EngineConfig, tell: Progress) -> tuple[float, LocalEngine]:
    engine = LocalEngine(config)
    began = time.perf_counter()
    await engine.start(tell)
    return time.perf_counter() - began, engine


def _fitting(limits: Limits, info: ModelInfo) -> Limits:
    """Return limits that ask no longer context than the model has."""
    asked = limits.max_kv_cache_capacity
    return limits if asked is None else replace(limits, max_kv_cache_capacity=min(asked, info.max_model_len))
