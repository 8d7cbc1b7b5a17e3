from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from loradex.core.mix import Mix
from loradex.errors import (
    AdapterDamaged,
    AdapterInvalid,
    AdapterNotFound,
    EngineFailed,
    LoradexError,
    Overloaded,
    RegistryFailed,
)

from .conftest import MakeDeck
from .deck import Deck, until


async def test_drain_lets_running_answers_finish_on_the_old_version(deck: Deck) -> None:
    old = await deck.add("medical", 1)
    stream = await deck.endless("medical")
    change = await deck.service.adapters.add("medical", deck.files(2))
    assert (change.ref.version, change.previous and change.previous.version) == (2, 1)
    assert change.moved == 0
    assert min(change.stage_seconds, change.load_seconds, change.switch_seconds) > 0
    assert (await deck.text("medical")).startswith(change.ref.digest[:8])
    assert deck.resident() == {old, change.ref.digest}
    text = await stream.rest()
    assert text.startswith(old[:8])
    assert change.ref.digest[:8] not in text
    assert stream.finished is not None
    assert stream.finished.mix == Mix.of(old)
    await deck.settle()
    assert deck.resident() == {change.ref.digest}


async def test_immediate_switches_running_answers(deck: Deck) -> None:
    old = await deck.add("medical", 1)
    streams = [await deck.endless("medical") for _ in range(3)]
    untouched = await deck.endless(None)
    change = await deck.service.adapters.add("medical", deck.files(2), mode="immediate")
    assert change.moved == 3
    for stream in streams:
        text = await stream.rest()
        assert text.startswith(old[:4])
        assert f"|{change.ref.digest[:8]}: " in text
        assert stream.finished is not None
        assert stream.finished.mix == Mix.of(change.ref.digest)
    assert "|" not in await untouched.rest()
    await deck.settle()
    assert deck.resident() == {change.ref.digest}
    assert deck.leases() == 0


async def test_new_requests_get_the_old_version_until_the_commit(deck: Deck) -> None:
    old = await deck.add("medical", 1)
    deck.engine.loads_allowed.clear()
    task = asyncio.create_task(deck.add("medical", 2))
    await until(lambda: len(deck.service.residency.states()) == 2)
    assert (await deck.text("medical")).startswith(old[:8])
    deck.engine.loads_allowed.set()
    new = await task
    assert (await deck.text("medical")).startswith(new[:8])


async def test_the_same_content_again_changes_nothing(deck: Deck) -> None:
    digest = await deck.add("medical", 1)
    change = await deck.service.adapters.add("medical", deck.files(1))
    assert (change.ref.version, change.ref.digest) == (1, digest)
    await deck.settle()
    assert deck.resident() == {digest}


async def test_a_version_that_an_alias_still_means_stays_resident(deck: Deck) -> None:
    first = await deck.add("medical", 1)
    await deck.service.adapters.promote("medical", 1, "stable")
    second = await deck.add("medical", 2)
    await deck.settle()
    assert deck.resident() == {first, second}


async def test_rollback_to_a_version_that_still_drains_keeps_it(deck: Deck) -> None:
    first = await deck.add("medical", 1)
    stream = await deck.endless("medical")
    second = await deck.add("medical", 2)
    change = await deck.service.adapters.rollback("medical")
    assert (change.ref.digest, change.previous and change.previous.digest) == (first, second)
    await stream.aclose()
    await deck.settle()
    assert deck.resident() == {first}


class Before:
    """The state before a replace that fails, to compare with the state after it."""

    def __init__(self, deck: Deck) -> None:
        self._deck = deck
        self._resident = deck.resident()
        self._blobs = deck.blobs()
        self.records = deck.registry.list()
        self._history = deck.registry.history("medical")

    async def same(self, old: str) -> None:
        deck = self._deck
        await deck.settle()
        assert deck.resident() == self._resident
        assert deck.blobs() == self._blobs
        assert deck.registry.list() == self.records
        assert deck.registry.history("medical") == self._history
        assert deck.leases() == 0
        assert (await deck.text("medical")).startswith(old[:8])


@contextmanager
def locked(deck: Deck) -> Iterator[None]:
    """Hold the write lock of the registry's database, as another process may."""
    (path,) = [path for path in deck.registry.home.iterdir() if path.suffix in (".db", ".sqlite", ".sqlite3")]
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        other.execute("ROLLBACK")
        other.close()


async def fails(deck: Deck, seed: int, kind: type[LoradexError], *, nan: bool = False) -> LoradexError:
    with pytest.raises(kind) as caught:
        await deck.service.adapters.add("medical", deck.files(seed, nan=nan))
    return caught.value


async def test_weights_with_nan_change_nothing(deck: Deck) -> None:
    old = await deck.add("medical", 1)
    before = Before(deck)
    await fails(deck, 2, AdapterInvalid, nan=True)
    await before.same(old)


async def test_a_load_that_fails_changes_nothing(deck: Deck) -> None:
    old = await deck.add("medical", 1)
    before = Before(deck)
    new = deck.registry.check(deck.files(2), deck.engine.info, max_rank=8).digest
    deck.engine.fail_load.add(new)
    await fails(deck, 2, EngineFailed)
    await before.same(old)


async def test_weights_that_do_not_answer_change_nothing(deck: Deck) -> None:
    old = await deck.add("medical", 1)
    before = Before(deck)
    new = deck.registry.check(deck.files(2), deck.engine.info, max_rank=8).digest
    deck.engine.fail_answer.add(new)
    await fails(deck, 2, EngineFailed)
    await before.same(old)


async def test_a_registry_that_cannot_be_written_changes_nothing(make_deck: MakeDeck) -> None:
    deck = await make_deck(busy_seconds=0.05)
    old = await deck.add("medical", 1)
    before = Before(deck)
    with locked(deck):
        await fails(deck, 2, RegistryFailed)
    await deck.settle()
    assert deck.registry.list() == before.records
    assert deck.resident() == {old}
    assert (await deck.text("medical")).startswith(old[:8])


async def test_no_slot_in_time_changes_nothing(make_deck: MakeDeck) -> None:
    deck = await make_deck(max_loras=1, queue_seconds=0.02)
    old = await deck.add("medical", 1)
    before = Before(deck)
    stream = await deck.endless("medical")
    error = await fails(deck, 2, Overloaded)
    assert "--max-loras" in error.hint
    await stream.aclose()
    await before.same(old)


async def test_with_one_slot_a_replace_waits_for_the_old_version_to_drain(make_deck: MakeDeck) -> None:
    deck = await make_deck(max_loras=1)
    old = await deck.add("medical", 1)
    stream = await deck.endless("medical")
    task = asyncio.create_task(deck.add("medical", 2))
    await until(lambda: deck.waiting() == 1)
    assert (await stream.rest()).startswith(old[:8])
    new = await task
    assert deck.resident() == {new}


async def test_a_damaged_blob_stops_a_promote_and_changes_nothing(deck: Deck) -> None:
    first = await deck.add("medical", 1)
    second = await deck.add("medical", 2)
    await deck.settle()
    blob = deck.registry.adapter(first).weights
    blob.chmod(0o644)
    data = bytearray(blob.read_bytes())
    data[-1] ^= 0xFF
    blob.write_bytes(data)
    before = Before(deck)
    for verb in (deck.service.adapters.promote("medical", 1), deck.service.adapters.rollback("medical")):
        with pytest.raises(AdapterDamaged):
            await verb
    await before.same(second)


async def test_a_switch_that_fails_after_the_commit_says_so(deck: Deck) -> None:
    old = await deck.add("medical", 1)
    stream = await deck.endless("medical")
    deck.engine.fail_switch = True
    with pytest.raises(EngineFailed, match=r"New requests get `medical@2`.*finish on `medical@1`"):
        await deck.service.adapters.add("medical", deck.files(2), mode="immediate")
    new = deck.registry.resolve("medical").digest
    assert (await deck.text("medical")).startswith(new[:8])
    assert "|" not in await stream.rest()
    assert stream.finished is not None
    assert stream.finished.mix == Mix.of(old)
    await deck.settle()
    assert deck.resident() == {new}
    assert deck.blobs() == 2
    assert deck.leases() == 0


@pytest.mark.parametrize("model", ["medical@1", "medical@prod", "legal"])
async def test_an_answer_that_asked_for_the_old_version_itself_is_never_switched(deck: Deck, model: str) -> None:
    old = await deck.add("medical", 1)
    await deck.add("legal", 1)
    await deck.service.adapters.promote("medical", 1, "prod")
    streams = [await deck.endless("medical"), await deck.endless(model)]
    change = await deck.service.adapters.add("medical", deck.files(2), mode="immediate")
    assert (change.ref.version, change.moved) == (2, 1)
    for stream, digest in zip(streams, (change.ref.digest, old), strict=True):
        await stream.rest()
        assert stream.finished is not None
        assert stream.finished.mix == Mix.of(digest)
    await deck.settle()
    assert deck.leases() == 0


async def test_promoting_an_alias_immediately_moves_those_who_asked_for_it(deck: Deck) -> None:
    await deck.add("medical", 1)
    await deck.add("medical", 2)
    await deck.service.adapters.promote("medical", 1, "prod")
    stream = await deck.endless("medical@prod")
    change = await deck.service.adapters.promote("medical", 2, "prod", mode="immediate")
    assert change.moved == 1
    await stream.rest()
    assert stream.finished is not None
    assert stream.finished.mix == Mix.of(change.ref.digest)


async def test_a_new_name_that_fails_is_not_there(deck: Deck) -> None:
    new = deck.registry.check(deck.files(2), deck.engine.info, max_rank=8).digest
    deck.engine.fail_load.add(new)
    with pytest.raises(EngineFailed):
        await deck.add("legal", 2)
    with pytest.raises(AdapterNotFound):
        deck.registry.get("legal")
    assert deck.blobs() == 0
    assert deck.resident() == set()


@pytest.mark.parametrize("after", [0, 2, 10, 40, 100, 250])
@pytest.mark.parametrize("mode", ["drain", "immediate"])
async def test_cancelled_anywhere_it_has_happened_wholly_or_not_at_all(deck: Deck, after: int, mode: str) -> None:
    old = await deck.add("medical", 1)
    task = asyncio.create_task(deck.add("medical", 2, mode=mode))
    for _ in range(after):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait((task,))
    await deck.settle()
    now = deck.registry.resolve("medical").digest
    assert deck.resident() == {now}
    assert deck.blobs() == len(deck.registry.get("medical").versions) == (1 if now == old else 2)
    assert deck.leases() == 0
    assert (await deck.text("medical")).startswith(now[:8])


async def test_cancelled_while_it_loads_the_new_weights_leave_again(deck: Deck) -> None:
    old = await deck.add("medical", 1)
    before = Before(deck)
    deck.engine.loads_allowed.clear()
    task = asyncio.create_task(deck.add("medical", 2))
    await until(lambda: len(deck.service.residency.states()) == 2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    deck.engine.loads_allowed.set()
    await before.same(old)


async def test_one_content_under_two_names_added_together_is_stored_for_the_one_that_succeeds(deck: Deck) -> None:
    deck.engine.loads_allowed.clear()
    first = asyncio.create_task(deck.add("medical", 1))
    second = asyncio.create_task(deck.add("legal", 1))
    await until(lambda: deck.waiting() == 2)
    first.cancel()
    await asyncio.wait((first,))
    deck.engine.loads_allowed.set()
    digest = await second
    assert deck.registry.adapter(digest).digest == digest
    assert (await deck.text("legal")).startswith(digest[:8])


async def test_replaces_of_one_name_happen_one_after_the_other(deck: Deck) -> None:
    digests = await asyncio.gather(*(deck.add("medical", seed) for seed in (1, 2, 3)))
    record = deck.registry.get("medical")
    assert [version.version for version in record.versions] == [1, 2, 3]
    assert {version.digest for version in record.versions} == set(digests)
    await deck.settle()
    assert deck.resident() == {deck.registry.resolve("medical").digest}
