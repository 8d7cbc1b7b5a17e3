"""Wires registry and engine together: the Python API that server and command line share."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from loradex.core.model import ModelInfo
from loradex.engine.base import Engine, Progress
from loradex.registry.registry import Registry
from loradex.service.adapters import Adapters
from loradex.service.generate import Answer, Ask
from loradex.service.metrics import Metrics
from loradex.service.residency import Residency
from loradex.service.views import ModelCard


class Service:
    """One base model and its adapters, served."""

    registry: Registry
    engine: Engine
    adapters: Adapters
    residency: Residency
    metrics: Metrics
    max_loras: int
    max_lora_rank: int

    def __init__(
        self,
        registry: Registry,
        engine: Engine,
        *,
        max_lora_rank: int,
        max_loras: int = 8,
        allow_dirs: Sequence[Path] = (),
        max_queue_seconds: float = 30.0,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        raise NotImplementedError

    @property
    def info(self) -> ModelInfo:
        """The base model."""
        raise NotImplementedError

    @property
    def ready(self) -> bool:
        """Whether requests can be answered."""
        raise NotImplementedError

    @property
    def base_names(self) -> frozenset[str]:
        """The names that mean the base model and that no adapter may have."""
        raise NotImplementedError

    async def start(self, progress: Progress | None = None) -> None:
        """Start the engine."""
        raise NotImplementedError

    async def stop(self) -> None:
        """Abort what runs, refuse what waits and stop the engine."""
        raise NotImplementedError

    def models(self) -> list[ModelCard]:
        """Return the base, then every enabled adapter for it by name. Reads the registry (about a millisecond)."""
        raise NotImplementedError

    async def generate(self, ask: Ask) -> Answer:
        """Begin an answer. Everything that is wrong with the request is raised here, before any event."""
        raise NotImplementedError
