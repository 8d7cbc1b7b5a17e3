from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from loradex.adapters.adapter import Adapter
from loradex.adapters.read import read_adapter
from loradex.engine.base import Engine
from tests.service.deck import save_adapter

from .engines import MAKERS

Start = Callable[..., Awaitable[Engine]]
Save = Callable[[Engine, int], Adapter]


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the whole session for the engines' models."""
    return tmp_path_factory.mktemp("models")


@pytest_asyncio.fixture(params=sorted(MAKERS))
async def start(request: pytest.FixtureRequest, models: Path) -> AsyncIterator[Start]:
    """Start an engine of the kind under test, with the given settings."""
    engines: list[Engine] = []

    async def start(**settings: object) -> Engine:
        engine = MAKERS[request.param](models, settings)
        engines.append(engine)
        await engine.start()
        return engine

    yield start
    for engine in engines:
        await engine.stop()


@pytest_asyncio.fixture
async def engine(start: Start) -> Engine:
    return await start(max_loras=2)


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Write the adapter of a seed and read it."""
    return lambda engine, seed: read_adapter(save_adapter(tmp_path / f"adapter-{seed}", engine.info, seed=seed))
