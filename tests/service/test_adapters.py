from __future__ import annotations

import asyncio
import shutil
import threading
from pathlib import Path

import pytest

from loradex.adapters.read import read_adapter
from loradex.core.mix import Mix
from loradex.errors import (
    AdapterInvalid,
    AdapterNotFound,
    Conflict,
    EngineFailed,
    FilesNotFound,
    InvalidRequest,
    PathNotAllowed,
)

from .deck import Deck, save_adapter


async def test_add_makes_it_resident_unless_told_otherwise(deck: Deck) -> None:
    change = await deck.service.adapters.add("medical", deck.files(1), actor="ann")
    assert (change.ref.name, change.ref.version, change.previous, change.moved) == ("medical", 1, None, 0)
    await deck.add("legal", 2, load=False)
    assert deck.resident() == {change.ref.digest}
    (entry,) = await deck.service.adapters.history("medical")
    assert (entry.actor, entry.action, entry.to_version) == ("ann", "add", 1)


@pytest.mark.parametrize("load", [True, False])
async def test_add_prepares_it_for_the_engine(deck: Deck, load: bool) -> None:
    told: list[tuple[str, float]] = []
    digest = await deck.add("medical", 1, load=load, progress=lambda *each: told.append(each))
    assert deck.engine.prepared == {digest}
    loaded = [("load", 0.0), ("warm", 0.0)] if load else []
    assert told == [("check", 0.0), ("pack", 1.0), *loaded, ("commit", 0.0)]


@pytest.mark.parametrize("load", [True, False])
async def test_a_failed_preparation_fails_nothing(deck: Deck, load: bool, caplog: pytest.LogCaptureFixture) -> None:
    deck.engine.fail_prepare = {read_adapter(deck.files(1)).digest}
    digest = await deck.add("medical", 1, load=load)
    assert deck.engine.prepared == set()
    assert "was not prepared" in caplog.text
    assert (await deck.text("medical")).startswith(digest[:8])


@pytest.mark.parametrize("name", ["base", "tiny", "models/tiny"])
async def test_names_of_the_base_are_taken(deck: Deck, name: str) -> None:
    with pytest.raises(Conflict):
        await deck.add(name, 1)


@pytest.mark.parametrize("name", ["", "a/b", "-x", "a,b", "x" * 129, "medical@1"])
async def test_names_that_break_the_grammar_are_refused(deck: Deck, name: str) -> None:
    with pytest.raises(InvalidRequest):
        await deck.add(name, 1)
    assert deck.blobs() == 0


async def test_without_replace_a_name_is_taken_once(deck: Deck) -> None:
    await deck.add("medical", 1)
    with pytest.raises(Conflict):
        await deck.add("medical", 2, replace=False)
    await deck.service.residents.unload("medical", disable=True)
    await deck.add("medical", 2, replace=False)
    assert (await deck.text("medical")).startswith(deck.registry.resolve("medical").digest[:8])


async def test_paths_outside_the_allowed_folders_need_trust(deck: Deck, tmp_path: Path) -> None:
    outside = save_adapter(tmp_path / "elsewhere", deck.engine.info)
    with pytest.raises(PathNotAllowed):
        await deck.service.adapters.add("medical", outside)
    with pytest.raises(PathNotAllowed):
        await deck.service.adapters.check(outside)
    assert (await deck.service.adapters.check(outside, trusted=True)).report.ok
    await deck.service.adapters.add("medical", outside, trusted=True)


async def test_bad_files_are_refused_by_name(deck: Deck) -> None:
    with pytest.raises(FilesNotFound):
        await deck.service.adapters.add("medical", deck.folder / "nothing")
    with pytest.raises(AdapterInvalid, match="rank"):
        await deck.service.adapters.add("medical", deck.files(1, rank=16))
    report = (await deck.service.adapters.check(deck.files(1, nan=True))).report
    assert not report.ok
    assert deck.registry.list() == []
    assert deck.blobs() == 0


async def test_views_tell_where_each_version_is(deck: Deck) -> None:
    await deck.add("medical", 1)
    stream = await deck.endless("medical")
    await deck.add("medical", 2, load=False)
    view = await deck.service.adapters.get("medical")
    assert (view.name, view.enabled, view.current, view.aliases) == ("medical", True, 2, {})
    first, second = view.versions
    assert (first.tier, first.resident, first.slot, first.leases, first.running) == ("device", True, 0, 1, 1)
    assert first.device_bytes > 0
    assert first.idle_seconds is not None
    assert (second.tier, second.resident, second.slot, second.leases, second.idle_seconds) == (
        "disk",
        False,
        None,
        0,
        None,
    )
    await stream.aclose()
    assert [each.name for each in await deck.service.adapters.list()] == ["medical"]
    with pytest.raises(AdapterNotFound):
        await deck.service.adapters.get("legal")


async def test_promote_moves_an_alias_and_loads_the_version(deck: Deck) -> None:
    first = await deck.add("medical", 1)
    await deck.add("medical", 2)
    await deck.settle()
    change = await deck.service.adapters.promote("medical", 1)
    assert (change.ref.digest, change.previous and change.previous.version) == (first, 2)
    assert (await deck.text("medical")).startswith(first[:8])
    change = await deck.service.adapters.promote("medical", 2, "prod")
    assert change.previous is None
    assert (await deck.text("medical@prod")).startswith(change.ref.digest[:8])
    with pytest.raises(AdapterNotFound):
        await deck.service.adapters.promote("medical", 9)


async def test_promote_immediate_moves_running_answers(deck: Deck) -> None:
    await deck.add("medical", 1)
    second = await deck.add("medical", 2)
    stream = await deck.endless("medical")
    change = await deck.service.adapters.promote("medical", 1, mode="immediate")
    assert (change.moved, change.previous and change.previous.digest) == (1, second)
    await stream.rest()
    assert stream.finished is not None
    assert stream.finished.mix == Mix.of(change.ref.digest)


async def test_rollback_needs_a_past(deck: Deck) -> None:
    first = await deck.add("medical", 1)
    with pytest.raises(AdapterNotFound):
        await deck.service.adapters.rollback("medical")
    await deck.add("medical", 2)
    assert (await deck.service.adapters.rollback("medical")).ref.digest == first
    assert (await deck.text("medical")).startswith(first[:8])


async def test_an_alias_goes_away(deck: Deck) -> None:
    await deck.add("medical", 1)
    second = await deck.add("medical", 2)
    await deck.service.adapters.promote("medical", 1)
    await deck.service.adapters.remove_alias("medical", "default")
    assert (await deck.text("medical")).startswith(second[:8])
    with pytest.raises(AdapterNotFound):
        await deck.service.adapters.remove_alias("medical", "default")


async def test_remove_lets_running_answers_finish(deck: Deck) -> None:
    digest = await deck.add("medical", 1)
    stream = await deck.endless("medical")
    await deck.service.adapters.remove("medical")
    assert deck.blobs() == 0
    assert (await stream.rest()).startswith(digest[:8])
    await deck.settle()
    assert deck.resident() == set()
    with pytest.raises(AdapterNotFound):
        await deck.service.adapters.remove("medical")


async def test_a_version_with_an_alias_is_not_removed(deck: Deck) -> None:
    await deck.add("medical", 1)
    await deck.add("medical", 2)
    await deck.service.adapters.promote("medical", 1, "prod")
    with pytest.raises(Conflict):
        await deck.service.adapters.remove("medical", 1)
    assert (await deck.text("medical@prod")).endswith("hello")


async def test_content_that_another_name_means_stays(deck: Deck) -> None:
    digest = await deck.add("medical", 1)
    await deck.add("legal", 1)
    await deck.service.adapters.remove("medical")
    await deck.settle()
    assert deck.resident() == {digest}
    assert (await deck.text("legal")).startswith(digest[:8])


async def test_load_and_unload(deck: Deck) -> None:
    digests = [await deck.add("medical", seed, load=False) for seed in (1, 2)]
    change = await deck.service.residents.load("medical@1")
    assert (change.ref.version, change.previous) == (1, None)
    assert change.load_seconds > 0
    await deck.service.residents.load("medical")
    assert deck.resident() == set(digests)
    await deck.service.residents.unload("medical@1")
    assert (await deck.service.adapters.get("medical")).enabled
    await deck.settle()
    assert deck.resident() == {digests[1]}
    await deck.service.residents.unload("medical")
    await deck.settle()
    assert deck.resident() == set()
    assert (await deck.text("medical")).startswith(digests[1][:8])


async def test_a_disabled_name_is_enabled_by_a_load_that_succeeds(deck: Deck) -> None:
    digest = await deck.add("medical", 1)
    await deck.service.residents.unload("medical", disable=True)
    assert not (await deck.service.adapters.get("medical")).enabled
    with pytest.raises(AdapterNotFound):
        await deck.service.residents.unload("medical", disable=True)
    await deck.settle()
    deck.engine.fail_load.add(digest)
    with pytest.raises(EngineFailed):
        await deck.service.residents.load("medical")
    assert not deck.registry.get("medical").enabled
    deck.engine.fail_load.clear()
    await deck.service.residents.load("medical")
    assert (await deck.text("medical")).startswith(digest[:8])


@pytest.mark.parametrize(("part", "verb"), [("residents", "load"), ("residents", "unload"), ("adapters", "history")])
async def test_unknown_names_are_not_found(deck: Deck, part: str, verb: str) -> None:
    with pytest.raises(AdapterNotFound):
        await getattr(getattr(deck.service, part), verb)("nobody")


async def test_locks_of_names_are_not_kept(deck: Deck) -> None:
    await asyncio.gather(deck.add("medical", 1), deck.add("medical", 2))
    for i in range(5):
        with pytest.raises(AdapterNotFound):
            await deck.service.residents.load(f"nobody{i}")
    assert not deck.service.adapters._names._locks


async def test_a_check_says_what_serving_would_take(deck: Deck) -> None:
    first = await deck.service.adapters.check(deck.files(1))
    assert (first.device_bytes, first.load_seconds) == (first.report.bytes, None)  # nobody has loaded anything yet
    await deck.add("a", 2)
    rate = deck.service.residency.ledger.load_rate
    again = await deck.service.adapters.check(deck.files(3))
    assert rate is not None
    assert again.load_seconds == again.device_bytes / rate
    assert len(deck.engine.resident()) == 1


@pytest.mark.parametrize("verb", ["add", "check"])
async def test_what_nobody_waits_for_is_cut_short(
    deck: Deck, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    archive = shutil.make_archive(str(tmp_path / "archive"), "zip", deck.files(7))
    before = sorted(deck.registry.home.rglob("*"))
    loop, reached, go, shares = asyncio.get_running_loop(), asyncio.Event(), threading.Event(), []

    def told(stage: str, share: float) -> None:
        if stage == "unpack":  # in a thread
            shares.append(share)
            loop.call_soon_threadsafe(reached.set)
            go.wait()

    fetched = deck.registry.fetched
    monkeypatch.setattr(deck.registry, "fetched", lambda *args, **more: fetched(*args, **{**more, "told": told}))
    adapters = deck.service.adapters
    work = adapters.add("cut", archive, trusted=True) if verb == "add" else adapters.check(archive, trusted=True)
    task = asyncio.create_task(work)
    await reached.wait()
    task.cancel()
    for _ in range(5):  # until the cancellation is where it is waited for
        await asyncio.sleep(0)
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert shares[0] == 0.0
    assert len(shares) == 2  # one piece, and then it was looked
    assert sorted(deck.registry.home.rglob("*")) == before
