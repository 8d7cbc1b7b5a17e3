"""Clients of an application that runs in the test's own loop, and adapters for it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

import loradex
from loradex.engine.config import EngineConfig
from loradex.engine.local.engine import LocalEngine
from loradex.registry.registry import Registry
from loradex.server.app import create_app
from loradex.server.run import Server
from loradex.service.service import Service
from loradex.settings import ServerConfig

from .serving import Deck, make_service, save_adapter

DEMO = Path(loradex.__file__).parent / "assets" / "demo"


class App:
    """An application in this loop, a client for it, and what is behind it."""

    def __init__(self, client: httpx.AsyncClient, deck: Deck) -> None:
        self.client = client
        self.deck = deck

    async def post(self, path: str, body: Any = None, **headers: str) -> httpx.Response:
        """Send JSON."""
        return await self.client.post(path, json=body, headers={k.replace("_", "-"): v for k, v in headers.items()})

    async def add(self, name: str, *, seed: int = 0, rank: int = 4) -> httpx.Response:
        """Make an adapter and register it."""
        folder = save_adapter(self.deck.folder / f"{name}-{seed}-{rank}", seed=seed, rank=rank)
        reply = await self.post("/api/adapters", {"name": name, "path": str(folder)})
        assert reply.status_code == 200, reply.text
        return reply

    async def complete(self, **body: Any) -> httpx.Response:
        """Ask for a completion."""
        return await self.post("/v1/completions", {"prompt": "hello", **body})

    async def chat(self, content: Any = "hello", **body: Any) -> httpx.Response:
        """Ask for a chat completion."""
        return await self.post("/v1/chat/completions", {"messages": [{"role": "user", "content": content}], **body})


@asynccontextmanager
async def running(
    tmp: Path,
    *,
    max_loras: int = 4,
    tokens_per_second: float = 0.0,
    max_adapter_size: int = 1 << 30,
    router: Path | None = None,
    **config: Any,
) -> AsyncIterator[App]:
    """Run an application in this loop."""
    service, engine = make_service(
        tmp, max_loras=max_loras, tokens_per_second=tokens_per_second, max_adapter_size=max_adapter_size, router=router
    )
    await service.start()
    transport = httpx.ASGITransport(create_app(service, ServerConfig(**config)))
    try:
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            yield App(client, Deck("http://test", service, engine, tmp / "adapters"))
    finally:
        await service.stop()
        service.registry.close()


Making = Callable[..., Awaitable[App]]


@pytest.fixture
async def making(tmp_path: Path) -> AsyncIterator[Making]:
    async with AsyncExitStack() as stack:

        async def make(**options: Any) -> App:
            return await stack.enter_async_context(running(tmp_path, **options))

        yield make


@pytest.fixture
async def app(making: Making) -> App:
    return await making()


@pytest.fixture(scope="package")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server of the demo model with the adapter `medical`, for tests that change nothing."""
    engine = LocalEngine(EngineConfig(model=str(DEMO / "base"), kv_cache_memory=1 << 26))
    service = Service(Registry(tmp_path_factory.mktemp("demo")), engine, max_lora_rank=64)

    async def prepare() -> None:
        await service.adapters.add("medical", DEMO / "adapters" / "medical", trusted=True)

    with Server(service, ServerConfig(port=0), prepare=prepare).background() as url:
        yield url


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[App]:
    """One application for many tests that change nothing; they run in the module's loop."""
    async with running(tmp_path_factory.mktemp("shared")) as app:
        yield app
