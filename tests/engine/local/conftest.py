"""Tiny models and adapters on disk, made once a session, and engines over them."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib.util import find_spec

import pytest
import torch

from loradex.adapters.read import read_adapter
from loradex.engine.config import EngineConfig
from loradex.engine.local.engine import LocalEngine

from . import tiny
from .tiny import Family, Running

collect_ignore = [] if find_spec("triton") else [f"test_{n}.py" for n in ("lora_triton", "attention_triton", "graphs")]


@pytest.fixture(scope="session")
def family(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Family]:
    made: dict[str, Family] = {}

    def make(name: str) -> Family:
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            base = tiny.save_base(name, folder / "base")
            adapters = tuple(read_adapter(path) for path in tiny.save_adapters(name, base, folder))
            made[name] = Family(name, base, adapters)
        return made[name]

    return make


@pytest.fixture
def device(request: pytest.FixtureRequest) -> torch.device:
    """The host, or what `tiny.DEVICES` says."""
    wanted = torch.device(getattr(request, "param", "cpu"))
    if wanted.type == "cuda" and (os.environ["TRITON_INTERPRET"] == "1" or not torch.cuda.is_available()):
        pytest.skip("needs a graphics card and `make test-gpu`")
    return wanted


@pytest.fixture
def running(device: torch.device) -> Running:
    @asynccontextmanager
    async def run(family: Family, **settings: object) -> AsyncIterator[LocalEngine]:
        defaults = {"model": str(family.base), "kv_cache_memory": 1 << 24, "threads": 1, "device": str(device)}
        engine = LocalEngine(EngineConfig(**(defaults | settings)))
        await engine.start()
        try:
            for adapter in family.adapters[: engine.config.max_loras]:
                await engine.load(adapter)
            yield engine
        finally:
            await engine.stop()

    return run
