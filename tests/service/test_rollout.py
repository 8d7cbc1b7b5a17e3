from __future__ import annotations

from collections import Counter

import pytest

from loradex.core.mix import Mix
from loradex.errors import AdapterNotFound, EngineFailed, InvalidRequest
from loradex.service.generate import Ask
from tests.service.deck import Deck

from .conftest import MakeDeck


async def version(deck: Deck, key: str = "", model: str = "medical") -> int | None:
    ask = deck.ask(model)
    answer = await deck.service.generate(Ask(ask.model, ask.prompt, ask.sampling, key=key))
    async for _ in answer.events():
        pass
    return next((ref.version for ref in answer.mix.adapters), None)


async def test_a_canary_gets_its_share_and_keeps_its_users(deck: Deck) -> None:
    first = await deck.add("medical", 1)
    second = await deck.add("medical", 2, canary=0)
    await deck.service.rollout.canary("medical", {1: 80, 2: 20}, actor="ada")
    assert {first, second} <= deck.resident()
    counts = Counter([await version(deck) for _ in range(100)])
    assert abs(counts[2] - 20) <= 1  # the sequence is even, not exact
    users = {f"user-{number}": await version(deck, f"user-{number}") for number in range(50)}
    assert set(users.values()) == {1, 2}
    for user, before in users.items():
        assert await version(deck, user) == before
    assert await version(deck, model="medical@2") == 2
    assert await version(deck, model="tiny:medical@1") == 1
    await deck.service.rollout.end_canary("medical", actor="ada")
    assert {await version(deck, user) for user in users} == {1}
    await deck.settle()
    assert deck.resident() == {first}
    actions = [(entry.actor, entry.action) for entry in await deck.service.adapters.history("medical")]
    assert actions[-2:] == [("ada", "canary"), ("ada", "end_canary")]


async def test_add_promote_and_rollback_know_of_it(deck: Deck) -> None:
    digests = [await deck.add("medical", 1)]
    digests += [await deck.add("medical", seed, canary=10) for seed in (2, 3)]
    assert (await deck.service.adapters.get("medical")).canary == {1: 90.0, 3: 10.0}
    assert deck.resident() == {digests[0], digests[2]}  # version 2 answers nobody any more
    change = await deck.service.adapters.promote("medical", 3)
    assert (change.ref.version, change.previous and change.previous.version) == (3, 1)
    await deck.settle()
    assert deck.resident() == {digests[2]}
    await deck.service.rollout.canary("medical", {1: 5})
    change = await deck.service.adapters.rollback("medical")
    assert change.ref.version == 3
    await deck.settle()
    assert deck.resident() == {digests[2]}
    assert (await deck.service.adapters.rollback("medical")).ref.version == 1


async def test_a_canary_that_cannot_answer_is_not_begun(deck: Deck) -> None:
    first = await deck.add("medical", 1)
    second = await deck.add("medical", 2, canary=0, load=False)
    deck.engine.fail_answer.add(second)
    with pytest.raises(EngineFailed):
        await deck.service.rollout.canary("medical", {2: 10})
    with pytest.raises(AdapterNotFound):
        await deck.service.rollout.canary("medical", {3: 10})
    with pytest.raises(InvalidRequest):
        await deck.service.rollout.canary("medical", {2: 110, 1: 10})
    await deck.settle()
    assert deck.resident() == {first}
    assert (await deck.service.adapters.get("medical")).canary == {}
    with pytest.raises(AdapterNotFound):
        await deck.service.rollout.end_canary("medical")


async def test_a_refused_canary_of_a_new_name_leaves_nothing(deck: Deck) -> None:
    with pytest.raises(InvalidRequest, match="no version yet"):
        await deck.add("medical", 1, canary=10)
    await deck.settle()
    assert (deck.resident(), deck.blobs(), await deck.service.adapters.list()) == (set(), 0, [])


@pytest.mark.parametrize("mode", ["drain", "immediate"])
async def test_running_answers_of_a_canary_end_as_they_should(make_deck: MakeDeck, mode: str) -> None:
    deck = await make_deck()
    digests = [await deck.add("medical", 1), await deck.add("medical", 2, canary=50)]
    streams = [await deck.endless("medical") for _ in range(6)]
    exact = await deck.endless("medical@2")
    begun = [ref.version for stream in streams for ref in stream.answer.mix.adapters]
    assert set(begun) == {1, 2}
    change = await deck.service.adapters.rollback("medical", mode=mode)  # type: ignore[arg-type]
    assert change.moved == (begun.count(2) if mode == "immediate" else 0)
    for stream, number in zip(streams, begun, strict=True):
        await stream.rest()
        assert stream.finished is not None
        assert stream.finished.mix == Mix.of(digests[0 if mode == "immediate" else number - 1])
    await exact.rest()
    assert exact.finished is not None
    assert exact.finished.mix == Mix.of(digests[1])
    await deck.settle()
    assert deck.resident() == {digests[0]}
