"""The test bed: an engine or a service in this process, with random adapters."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from loradex.adapters.adapter import Adapter
from loradex.adapters.packs import FOLDER, PackFolder
from loradex.adapters.read import read_adapter
from loradex.bench.cost import Cost
from loradex.bench.deck import Tell, adapter_folders, base_folder
from loradex.bench.shape import AdapterClass
from loradex.core.model import ModelInfo
from loradex.engine.base import Engine
from loradex.engine.config import EngineConfig
from loradex.engine.factory import make_engine
from loradex.registry.registry import Registry
from loradex.service.service import Service

QUEUE_SECONDS = 600.0
"""A request of a benchmark waits for its slot; that it had to is what the figures show."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run is made on.

    Attributes:
        engine: name of the engine.
        config: its settings; model, slots and sequences are set by the bed.
        model: a deck, or the folder of a base model.
        kind: class of the adapters.
        adapters: how many of them.
        batch: sequences computed side by side.
        pairs: how often each side is measured.
        name: of the result.
    """

    engine: str
    config: EngineConfig
    model: Path
    kind: AdapterClass
    adapters: int
    batch: int
    pairs: int
    name: str

    def packs(self, home: Path) -> Path:
        """Return the folder of packs, which are kept as `serve` keeps them."""
        return self.config.pack_dir or home / FOLDER

    def settings(self, slots: int, packs: Path) -> EngineConfig:
        """Return the engine's settings. Without a prefix cache: it would hide the prompts of the later runs."""
        return replace(
            self.config,
            model=str(base_folder(self.model)),
            max_loras=max(1, slots),
            max_num_seqs=max(self.batch, self.config.max_num_seqs),
            prefix_cache=False,
            pack_dir=packs,
        )


@dataclass(frozen=True, slots=True)
class Bed:
    """An engine that serves, its adapters in order, what its work costs, and where its packs go."""

    engine: Engine
    adapters: tuple[Adapter, ...]
    cost: Cost
    packs: PackFolder

    @property
    def info(self) -> ModelInfo:
        """The base model."""
        return self.engine.info

    @property
    def digests(self) -> list[str]:
        """The adapters' digests, by number."""
        return [each.digest for each in self.adapters]

    def describe(self, kind: AdapterClass) -> dict[str, Any]:
        """Return model and adapters as plain values."""
        return {
            "id": self.info.id,
            "architecture": self.info.architecture,
            "dtype": self.info.dtype,
            "quantization": self.info.quantization,
            "kv_cache_dtype": self.info.kv_cache_dtype,
            "device": self.info.device,
            "weights": self.cost.linears + self.cost.head,
            "adapter_class": kind.name,
            "adapters": len(self.adapters),
            "adapter_bytes": [each.bytes for each in self.adapters[:8]],
        }


@asynccontextmanager
async def engine_bed(plan: Plan, tell: Tell, *, resident: bool = True) -> AsyncIterator[Bed]:
    """Run an engine; with `resident`, with every adapter in it. Adapters that the deck lacks are made and thrown away.

    Raises:
        ConfigInvalid: the model cannot be served.
    """
    with tempfile.TemporaryDirectory(prefix="loradex-bench-") as spare:
        packs = plan.packs(Path(spare))
        engine = make_engine(plan.engine, plan.settings(plan.adapters, packs))
        await engine.start(tell)
        try:
            bed = _with_adapters(plan, engine, packs, Path(spare), tell)
            for adapter in bed.adapters if resident else ():
                await engine.load(adapter)
            yield bed
        finally:
            await engine.stop()


@dataclass(frozen=True, slots=True)
class ServiceBed:
    """A service that serves, and the names of its adapters by number. `bed` has its engine."""

    service: Service
    names: tuple[str, ...]
    bed: Bed


@asynccontextmanager
async def service_bed(plan: Plan, tell: Tell, *, slots: int, register: int) -> AsyncIterator[ServiceBed]:
    """Run a service with the first `register` adapters under the names `a0`, `a1`, ..., none of them loaded.

    The engine has one slot more than the service knows of: for loads that go past the service.

    Raises:
        ConfigInvalid: the model cannot be served.
    """
    with (
        tempfile.TemporaryDirectory(prefix="loradex-bench-") as spare,
        Registry(Path(spare) / "home") as registry,
    ):
        packs = plan.packs(registry.home)
        engine = make_engine(plan.engine, plan.settings(slots + 1, packs))
        rank = max(plan.kind.ranks)
        service = Service(registry, engine, max_lora_rank=rank, max_loras=slots, max_queue_seconds=QUEUE_SECONDS)
        await service.start(tell)
        try:
            bed = _with_adapters(plan, engine, packs, Path(spare), tell)
            names = tuple(f"a{index}" for index in range(register))
            for index, (name, adapter) in enumerate(zip(names, bed.adapters, strict=False)):
                await service.adapters.add(name, adapter.path, load=False, trusted=True, actor="bench")
                tell("register", (index + 1) / register)
            yield ServiceBed(service, names, bed)
        finally:
            await service.stop()


def _with_adapters(plan: Plan, engine: Engine, packs: Path, spare: Path, tell: Tell) -> Bed:
    folders = adapter_folders(plan.model, plan.kind, plan.adapters, engine.info.linears, spare, tell)
    adapters = tuple(read_adapter(folder) for folder in folders)
    return Bed(engine, adapters, Cost.of(engine.info, adapters), PackFolder(packs))
