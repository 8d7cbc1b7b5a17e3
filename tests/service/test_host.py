from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
import pytest_asyncio

from loradex.adapters.adapter import Adapter
from loradex.engine.config import EngineConfig
from loradex.engine.fake import FakeEngine
from loradex.service.host import Host
from loradex.service.usage import Ledger

from .conftest import MakeDeck
from .deck import Deck

Make = Callable[[str, int], Adapter]
A, B, C = (letter * 64 for letter in "abc")


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine(EngineConfig(), host_tier=True)


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


@pytest.fixture
def host(engine: FakeEngine, ledger: Ledger) -> Host:
    return Host(engine, 100, ledger, {C})


@pytest.fixture
def adapter(tmp_path: Path) -> Make:
    (tmp_path / "adapter_model.safetensors").touch()
    return lambda digest, size: Adapter(digest, tmp_path, {}, 4, 0, size, None)


@pytest_asyncio.fixture
async def host_deck(make_deck: MakeDeck) -> Deck:
    """Two slots, and a host tier."""
    return await make_deck(max_loras=2, host_tier=True)


async def staged(host: Host, adapter: Adapter) -> None:
    task = host.stage(adapter)
    if task is not None:
        await task


async def test_the_least_asked_for_make_room_within_the_budget(
    host: Host, engine: FakeEngine, ledger: Ledger, adapter: Make
) -> None:
    for digest, leases in ((A, 3), (B, 1)):
        for _ in range(leases):
            ledger.leased(digest, hit=True)
        await staged(host, adapter(digest, 40))
    await staged(host, adapter("d" * 64, 60))
    assert engine.staged == {A: 40, "d" * 64: 60}
    assert (host.bytes, host.evictions) == (100, 1)
    await staged(host, adapter("e" * 64, 101))
    assert (host.bytes, host.held("e" * 64)) == (100, 0)


async def test_what_is_pinned_stays(host: Host, engine: FakeEngine, adapter: Make) -> None:
    await staged(host, adapter(C, 90))
    assert host.stage(adapter(A, 20)) is None
    assert engine.staged == {C: 90}


async def test_what_is_dropped_on_its_way_in_does_not_stay(host: Host, engine: FakeEngine, adapter: Make) -> None:
    task = host.stage(adapter(A, 20))
    assert host.stage(adapter(A, 20)) is task
    host.drop(A)
    assert task is not None
    await task
    assert engine.staged == {}
    assert host.bytes == 0


async def test_files_that_are_gone_leave_nothing(host: Host, engine: FakeEngine, adapter: Make) -> None:
    gone = Adapter(A, Path("/nowhere"), {}, 4, 0, 20, None)
    await staged(host, gone)
    assert (host.bytes, engine.staged, host.tasks) == (0, {}, [])


async def test_an_evicted_adapter_stays_in_host_memory_until_nothing_means_it(host_deck: Deck) -> None:
    deck = host_deck
    digests = [await deck.add(name, seed) for seed, name in enumerate(("one", "two", "three"))]
    await deck.settle()
    tiers = {view.name: view.versions[0].tier for view in await deck.service.adapters.list()}
    assert sorted(tiers.values()) == ["device", "device", "host"]
    assert set(deck.engine.staged) == set(digests)
    for name in ("one", "two", "three"):
        await deck.service.adapters.remove(name)
    await deck.settle()
    assert deck.engine.staged == {}
    assert deck.service.residency.host.bytes == 0


async def test_who_waits_for_room_has_its_weights_staged_meanwhile(host_deck: Deck) -> None:
    deck = host_deck
    digests = [await deck.add(name, seed, load=False) for seed, name in enumerate(("one", "two", "three"))]
    streams = [await deck.endless(name) for name in ("one", "two")]
    waiting = asyncio.create_task(deck.text("three"))
    async with asyncio.timeout(5):
        while digests[2] not in deck.engine.staged:
            await asyncio.sleep(0.001)
    assert deck.waiting() == 1
    for stream in streams:
        await stream.aclose()
    assert (await waiting).startswith(digests[2][:8])
