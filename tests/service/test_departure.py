from __future__ import annotations

import asyncio

import pytest

from loradex.errors import AdapterUnloaded, Conflict
from tests.service.deck import Deck, until


async def test_detach_waits_for_nobody(deck: Deck) -> None:
    digest = await deck.add("medical", 1)
    stream = await deck.endless("medical")
    await deck.service.residents.unload("medical")
    assert deck.resident() == {digest}
    await stream.aclose()
    await deck.settle()
    assert deck.resident() == set()


async def test_drain_waits_for_the_last_answer(deck: Deck) -> None:
    digest = await deck.add("medical", 1)
    streams = [await deck.endless("medical"), await deck.endless("medical@1")]
    stages: list[str] = []
    drain = asyncio.create_task(
        deck.service.residents.unload("medical", how="drain", progress=lambda stage, _: stages.append(stage))
    )
    await streams[0].aclose()
    assert (await deck.text("medical")).startswith(digest[:8])  # it is there, so it answers
    assert (drain.done(), stages) == (False, ["drain"])
    await streams[1].aclose()
    await drain
    assert deck.resident() == set()
    assert (await deck.text("medical")).startswith(digest[:8])


@pytest.mark.parametrize("end", ["timeout", "cancel"])
async def test_a_drain_that_does_not_end_changes_nothing(deck: Deck, end: str) -> None:
    digest = await deck.add("medical", 1)
    stream = await deck.endless("medical")
    if end == "timeout":
        with pytest.raises(Conflict, match=r"After 0\.01 s the adapter is still in use, by 1 answer$"):
            await deck.service.residents.unload("medical", how="drain", seconds=0.01)
    else:
        drain = asyncio.create_task(deck.service.residents.unload("medical", how="drain"))
        await until(lambda: deck.service.residency._entries[digest].retired)
        drain.cancel()
        await asyncio.wait((drain,))
    await stream.aclose()
    await deck.settle()
    assert deck.resident() == {digest}


async def test_force_ends_running_answers_and_nobody_elses(deck: Deck) -> None:
    digest = await deck.add("medical", 1)
    await deck.add("legal", 2)
    hit = [await deck.endless("medical"), await deck.endless("medical*0.5+legal*0.5")]
    other = await deck.endless("legal")
    await deck.service.residents.unload("medical", how="force", seconds=5)
    assert digest not in deck.resident()
    for stream in hit:
        with pytest.raises(AdapterUnloaded, match="medical"):
            await stream.rest()
        assert stream.answer.outcome == "adapter_unloaded"
    await other.read(3)
    await other.aclose()
    assert (deck.leases(), deck.engine.stats().running) == (0, 0)
    assert (await deck.text("medical")).startswith(digest[:8])


async def test_force_ends_answers_that_nobody_reads_or_has_begun_to_read(deck: Deck) -> None:
    digest = await deck.add("medical", 1)
    slow = await deck.endless("medical")
    unread = await deck.service.generate(deck.ask("medical"))
    await until(lambda: slow.answer._room.locked())  # as many pieces as fit wait for the reader
    await deck.service.residents.unload("medical", how="force", seconds=5)
    assert digest not in deck.resident()
    with pytest.raises(AdapterUnloaded):
        [event async for event in unread.events()]
    await slow.aclose()
    await unread.aclose()
    assert deck.leases() == 0


async def test_who_asks_during_force_waits_and_is_answered(deck: Deck) -> None:
    """A cancelled request of the engine may need a step to let go; who comes then gets no doomed lease."""
    digest = await deck.add("medical", 1)
    stream = await deck.endless("medical")
    held = await deck.service.residency.acquire(digest)  # as a replace holds it while it tries it
    force = asyncio.create_task(deck.service.residents.unload("medical", how="force", seconds=5))
    await until(lambda: deck.service.residency._entries[digest].leaving)
    asked = asyncio.create_task(deck.text("medical"))
    await until(lambda: deck.waiting() == 1)
    held.release()
    await force
    assert (await asked).startswith(digest[:8])
    with pytest.raises(AdapterUnloaded):
        await stream.rest()


async def test_pieces_that_came_before_the_end_are_still_read(deck: Deck) -> None:
    await deck.add("medical", 1)
    stream = await deck.endless("medical")
    before = stream.text
    await until(stream.answer._room.locked)
    await deck.service.residents.unload("medical", how="force", seconds=5)
    with pytest.raises(AdapterUnloaded):
        await stream.rest()
    assert len(stream.text) > len(before)
