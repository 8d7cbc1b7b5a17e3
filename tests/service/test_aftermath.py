from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from loradex.errors import EngineFailed
from loradex.service.trial import Rule
from tests.service.deck import Deck, until

from .conftest import MakeDeck

RULE = Rule(requests=6, share=0.5, seconds=60)


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


async def ask(deck: Deck, times: int, model: str = "medical") -> list[str]:
    """Ask again and again; return what answered, or the code of what failed."""
    found = []
    for _ in range(times):
        try:
            found.append((await deck.text(model))[:8])
        except EngineFailed as error:
            found.append(error.code)
    return found


async def last(deck: Deck) -> Any:
    return (await deck.service.adapters.history("medical"))[-1]


async def rolled_back(deck: Deck) -> Any:
    """The last entry of the history, once the service has rolled back."""
    async with asyncio.timeout(5):
        while (entry := await last(deck)).action != "rollback":
            await asyncio.sleep(0.001)
    return entry


async def test_a_replaced_version_that_fails_is_rolled_back_with_the_reason(make_deck: MakeDeck) -> None:
    deck = await make_deck(rule=RULE)
    first = await deck.add("medical", 1)
    second = await deck.add("medical", 2)
    assert await ask(deck, 3) == [second[:8]] * 3
    deck.engine.fail_answer.add(second)
    assert await ask(deck, 4) == ["engine_failed"] * 4
    entry = await rolled_back(deck)
    assert (entry.actor, entry.from_version, entry.to_version) == ("loradex", 2, 1)
    assert entry.note == "4 of its last 6 requests failed"
    await until(lambda: not deck.service._aftermath._tasks)
    assert await ask(deck, 20) == [first[:8]] * 20
    await deck.settle()
    assert deck.resident() == {first}
    assert b'loradex_adapter_rollbacks_total{adapter="medical",version="2"} 1.0' in deck.service.metrics.render()


async def test_a_promoted_version_is_looked_at_too(make_deck: MakeDeck) -> None:
    deck = await make_deck(rule=RULE)
    digests = [await deck.add("medical", seed) for seed in (1, 2, 3)]
    await deck.service.adapters.promote("medical", 1)
    deck.engine.fail_answer.add(digests[0])
    await ask(deck, 6)
    assert (await rolled_back(deck)).to_version == 3


async def test_a_canary_that_fails_loses_its_share_and_others_keep_theirs(make_deck: MakeDeck) -> None:
    deck = await make_deck(rule=RULE)
    digests = [await deck.add("medical", seed, canary=0 if seed > 1 else None) for seed in (1, 2, 3)]
    await deck.service.rollout.canary("medical", {2: 30, 3: 30})
    deck.engine.fail_answer.add(digests[1])
    async with asyncio.timeout(5):
        while (await last(deck)).action == "canary":
            await ask(deck, 5)
    entry = await last(deck)
    assert (entry.actor, entry.action, entry.from_version, entry.to_version) == ("loradex", "rollback", 2, 1)
    assert entry.note == "6 of its last 6 requests failed; 1=70 3=30"
    assert set(await ask(deck, 40)) == {digests[0][:8], digests[2][:8]}


async def test_a_version_that_has_answered_for_long_is_not_rolled_back(make_deck: MakeDeck) -> None:
    clock = Clock()
    deck = await make_deck(rule=RULE, clock=clock)
    await deck.add("medical", 1)
    second = await deck.add("medical", 2)
    clock.now += RULE.seconds + 1
    deck.engine.fail_answer.add(second)
    await ask(deck, 20)
    assert not deck.service._aftermath._tasks
    assert (await last(deck)).action == "add"


async def test_a_name_that_has_moved_on_is_left_alone(make_deck: MakeDeck) -> None:
    """The verdict on version 2 falls while version 3 takes over."""
    deck = await make_deck(rule=RULE)
    for seed in (1, 2):
        digest = await deck.add("medical", seed)
    deck.engine.fail_answer.add(digest)
    await ask(deck, 5)
    async with deck.service.adapters._names.alone("medical"):
        await ask(deck, 1)
        assert deck.service._aftermath._tasks
        staged = deck.registry.stage(deck.files(3), deck.engine.info, max_rank=8)
        deck.registry.commit("medical", staged, serve=True)
    await until(lambda: not deck.service._aftermath._tasks)
    assert (await last(deck)).action == "add"
    assert deck.registry.resolve("medical").version == 3


def recorded(deck: Deck) -> list[Any]:
    path = deck.registry.home / "shadows" / "medical.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def copies(deck: Deck, outcome: str) -> float:
    labels = {"adapter": "medical", "version": "2", "outcome": outcome}
    return deck.service.metrics._registry.get_sample_value("loradex_shadow_requests_total", labels) or 0


async def shadowed(make_deck: MakeDeck, **options: Any) -> tuple[Deck, list[str]]:
    deck = await make_deck(**options)
    digests = [await deck.add("medical", seed, canary=0 if seed > 1 else None) for seed in (1, 2)]
    await deck.service.rollout.shadow("medical", 2, actor="ada")
    return deck, digests


async def test_a_shadow_answers_the_same_and_nobody_sees_it(make_deck: MakeDeck) -> None:
    deck, digests = await shadowed(make_deck)
    assert await ask(deck, 3) == [digests[0][:8]] * 3
    await until(lambda: copies(deck, "answered") == 3)
    entry = recorded(deck)[0]
    assert entry["answer"]["prompt"] == entry["shadow"]["prompt"] == "hello"
    assert (entry["answer"]["adapter"], entry["shadow"]["adapter"]) == ("medical@1", "medical@2")
    assert [entry["answer"]["digest"], entry["shadow"]["digest"]] == digests
    assert entry["answer"]["text"] == f"{digests[0][:8]}: hello"
    assert entry["shadow"]["text"] == f"{digests[1][:8]}: hello"
    assert (entry["shadow"]["finish_reason"], entry["same"]) == ("stop", False)
    assert (deck.leases(), (await last(deck)).actor, (await last(deck)).note) == (0, "ada", "100 %")
    assert b'loradex_requests_total{adapter="medical",outcome="stop",version="2"}' not in deck.service.metrics.render()


async def test_only_its_part_of_the_requests_for_the_bare_name_is_copied(make_deck: MakeDeck) -> None:
    deck, _ = await shadowed(make_deck)
    await deck.service.rollout.shadow("medical", 2, 25)
    for model in ("medical@1", "medical@default", "base"):
        await ask(deck, 5, model)
    for _ in range(40):
        await ask(deck, 1)
        await until(lambda: deck.service._aftermath._shadows._queue.empty())
    await until(lambda: copies(deck, "answered") + copies(deck, "dropped") >= 8)
    await deck.service.rollout.end_shadow("medical")
    await until(lambda: deck.leases() == 0)
    before = copies(deck, "answered") + copies(deck, "dropped")
    assert 8 <= before <= 12
    await ask(deck, 10)
    assert copies(deck, "answered") + copies(deck, "dropped") == before


async def test_a_copy_is_dropped_while_somebody_waits(make_deck: MakeDeck) -> None:
    deck, _ = await shadowed(make_deck, max_num_seqs=1)
    await deck.text("medical")
    deck.engine.tokens_per_second = 5
    await until(lambda: deck.engine.stats().running == 1)  # the copy, which would go on for seconds
    waiting = asyncio.create_task(deck.text("medical@1", "x"))
    await until(lambda: copies(deck, "dropped") == 1)
    deck.engine.tokens_per_second = 0
    assert await waiting
    assert recorded(deck) == []


async def test_a_shadow_that_left_the_engine_comes_back_where_there_is_room(make_deck: MakeDeck) -> None:
    deck, digests = await shadowed(make_deck, max_loras=2)
    await deck.service.residents.unload("medical@2")
    await deck.settle()
    assert await ask(deck, 3) == [digests[0][:8]] * 3
    await until(lambda: copies(deck, "answered") == 3)
    assert deck.resident() == set(digests)


@pytest.mark.parametrize("reason", ["no room", "fails", "disk"])
async def test_a_shadow_that_cannot_answer_harms_nobody(make_deck: MakeDeck, reason: str) -> None:
    deck, digests = await shadowed(make_deck, max_loras=1 if reason == "no room" else 4)
    if reason == "fails":
        deck.engine.fail_answer.add(digests[1])
    elif reason == "disk":
        (deck.registry.home / "shadows").write_text("a file where the folder should be")
    assert await ask(deck, 3) == [digests[0][:8]] * 3
    await until(lambda: copies(deck, "dropped" if reason == "no room" else "failed") == 3)
    assert digests[0] in deck.resident()
    assert (await deck.service.adapters.get("medical")).shadow is not None


async def test_more_copies_than_may_wait_are_dropped(make_deck: MakeDeck) -> None:
    deck, _ = await shadowed(make_deck)
    deck.engine.tokens_per_second = 200
    await asyncio.gather(*(deck.text("medical", "x") for _ in range(50)))
    assert copies(deck, "dropped") > 0
    await deck.service.stop()  # with some under way
    assert deck.leases() == 0
