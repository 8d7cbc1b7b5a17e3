"""A real watched folder: what comes is served, what changes replaces, what is broken is shown and harms nobody."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from loradex.errors import ConfigInvalid
from loradex.service.watch import Watcher
from tests.registry.sources.packing import contents, zip_of

from .conftest import MakeDeck
from .deck import Deck, save_adapter

SETTLE = 0.2


@pytest.fixture
def watched(tmp_path: Path) -> Path:
    folder = tmp_path / "watched"
    folder.mkdir()
    return folder


async def until(true: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(10):
        while not await true():
            await asyncio.sleep(0.02)


async def versions(deck: Deck) -> dict[str, int | None]:
    return {view.name: view.current for view in await deck.service.adapters.list()}


async def test_adapters_come_change_break_and_recover(make_deck: MakeDeck, watched: Path) -> None:
    deck = await make_deck(watch=[watched], settle_seconds=SETTLE)
    save_adapter(watched / "medical", deck.engine.info)
    (watched / "legal.zip").write_bytes(zip_of(contents(deck.files(5))))
    (watched / ".hidden").mkdir()
    (watched / "notes.txt").write_text("no adapter")

    async def at(expected: dict[str, int]) -> bool:
        return await versions(deck) == expected

    await until(lambda: at({"legal": 1, "medical": 1}))
    assert deck.resident() == set()
    first = deck.registry.resolve("medical").digest
    assert (await deck.text("medical")).startswith(first[:8])

    for name, content in contents(deck.files(2)).items():
        (watched / "medical" / name).write_bytes(content)
    await until(lambda: at({"legal": 1, "medical": 2}))
    second = deck.registry.resolve("medical").digest
    await deck.settle()
    assert second in deck.resident()  # as the version before was

    (watched / "medical" / "adapter_config.json").write_text("{")
    await until(lambda: _is(lambda: bool(deck.service.watcher.invalid)))
    (entry,) = deck.service.watcher.invalid
    assert (entry.name, entry.path, entry.code) == ("medical", watched / "medical", "adapter_invalid")
    assert entry.problems
    assert (await deck.text("medical")).startswith(second[:8])

    shutil.copy(deck.files(3) / "adapter_config.json", watched / "medical")
    await until(lambda: _is(lambda: not deck.service.watcher.invalid))
    shutil.rmtree(watched / "medical")
    save_adapter(watched / "bad name", deck.engine.info)
    await until(lambda: _is(lambda: [each.name for each in deck.service.watcher.invalid] == ["bad name"]))
    assert await versions(deck) == {"legal": 1, "medical": 2}
    assert {each.actor for each in await deck.service.adapters.history("medical")} == {"watch"}
    shutil.rmtree(watched / "bad name")
    await until(lambda: _is(lambda: not deck.service.watcher.invalid))


async def _is(true: Callable[[], bool]) -> bool:
    return true()


async def test_a_copy_under_way_is_not_read(make_deck: MakeDeck, watched: Path) -> None:
    deck = await make_deck(watch=[watched], settle_seconds=0.5)
    files = contents(deck.files(1))
    target = watched / "medical"
    target.mkdir()
    (target / "adapter_config.json").write_bytes(files["adapter_config.json"])
    with (target / "adapter_model.safetensors").open("wb") as file:
        for start in range(0, 10):
            size = len(files["adapter_model.safetensors"]) // 10 + 1
            file.write(files["adapter_model.safetensors"][start * size : (start + 1) * size])
            file.flush()
            await asyncio.sleep(0.1)
            assert deck.service.watcher.invalid == []
    async with asyncio.timeout(10):
        while await versions(deck) != {"medical": 1}:
            assert deck.service.watcher.invalid == []
            await asyncio.sleep(0.02)


async def test_a_rollback_outlives_a_restart(make_deck: MakeDeck, watched: Path) -> None:
    deck = await make_deck()
    await deck.add("medical", 1)
    await deck.add("medical", 2)
    await deck.service.adapters.rollback("medical")
    shutil.copytree(deck.files(2), watched / "medical")
    shutil.copytree(deck.files(3), watched / "legal")
    await asyncio.sleep(0.02)
    watcher = Watcher(deck.service.adapters, [watched], 0.01, time.perf_counter)
    await watcher.start()
    await watcher.stop()
    assert await versions(deck) == {"legal": 1, "medical": 1}
    assert watcher.invalid == []


async def test_a_folder_that_is_not_there_is_said_at_the_start(make_deck: MakeDeck, watched: Path) -> None:
    with pytest.raises(ConfigInvalid, match="nowhere"):
        await make_deck(watch=[watched / "nowhere"])


async def test_watching_outlives_whatever_goes_wrong(
    make_deck: MakeDeck, watched: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deck = await make_deck(watch=[watched], settle_seconds=SETTLE)
    deck.engine.fail_prepare = set()
    right = deck.registry.stage
    calls = []

    def failing(*values: object, **options: object) -> object:
        calls.append(1)
        if len(calls) == 1:
            from loradex.errors import RegistryFailed

            raise RegistryFailed("the disk is full")
        return right(*values, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(deck.registry, "stage", failing)
    save_adapter(watched / "medical", deck.engine.info)

    async def served() -> bool:
        return await versions(deck) == {"medical": 1}

    await until(served)
    assert len(calls) == 2
    await until(lambda: _is(lambda: not deck.service.watcher.invalid))
    assert json.loads((watched / "medical" / "adapter_config.json").read_text())["r"] == 4
