from __future__ import annotations

import asyncio

import pytest

from loradex.core.event import Finished
from loradex.core.mix import Mix
from loradex.core.prompt import ChatPrompt, Message
from loradex.core.sampling import Sampling
from loradex.errors import (
    AdapterDamaged,
    ContextLengthExceeded,
    EngineFailed,
    EngineStopped,
    InvalidRequest,
    LoradexError,
    ModelNotFound,
    Overloaded,
)
from loradex.service.generate import Ask

from .conftest import MakeDeck
from .deck import Deck, Stream, until


def idle(deck: Deck) -> bool:
    stats = deck.engine.stats()
    return stats.running == stats.waiting == deck.leases() == deck.waiting() == 0


@pytest.mark.parametrize("model", [None, "", "base", "tiny", "models/tiny"])
async def test_the_base_answers_under_its_names(deck: Deck, model: str | None) -> None:
    answer = await deck.service.generate(deck.ask(model))
    assert (answer.model, answer.mix) == ("tiny", Mix())
    assert (await Stream(answer).rest()) == "base: hello"


@pytest.mark.parametrize(
    ("model", "version", "said"),
    [
        ("medical", 2, "medical"),
        ("medical@1", 1, "medical@1"),
        ("medical@latest", 2, "medical@latest"),
        ("medical@prod", 1, "medical@prod"),
        ("tiny:medical", 2, "medical"),
        ("base:medical@1", 1, "medical@1"),
        ("models/tiny:medical@prod", 1, "medical@prod"),
    ],
)
async def test_references_mean_versions(deck: Deck, model: str, version: int, said: str) -> None:
    digests = [await deck.add("medical", seed) for seed in (1, 2)]
    await deck.service.adapters.promote("medical", 1, "prod")
    answer = await deck.service.generate(deck.ask(model))
    (ref,) = answer.mix.adapters
    assert (answer.model, ref.version, ref.digest) == (said, version, digests[version - 1])
    assert await Stream(answer).rest() == f"{digests[version - 1][:8]}: hello"
    by_digest = await deck.text(f"medical@sha256:{digests[0][:12]}")
    assert by_digest.startswith(digests[0][:8])


@pytest.mark.parametrize(
    "model", ["medicla", "medical@9", "medical@nobody", "tiny:legal", "gpt-4/x", "base:", "tiny2", "a b", "medical:x"]
)
async def test_unknown_names_are_not_found_and_never_the_base(deck: Deck, model: str) -> None:
    await deck.add("medical", 1)
    with pytest.raises(ModelNotFound) as caught:
        await deck.service.generate(deck.ask(model))
    assert caught.value.param == "model"
    if "medic" in model and "@" not in model and ":" not in model:
        assert "`medical`" in caught.value.hint
    assert deck.leases() == 0


async def test_a_disabled_name_is_not_found(deck: Deck) -> None:
    await deck.add("medical", 1)
    stream = await deck.endless("medical")
    await deck.service.residents.unload("medical", disable=True)
    with pytest.raises(ModelNotFound):
        await deck.service.generate(deck.ask("medical"))
    await stream.rest()
    assert stream.finished is not None
    assert stream.finished.reason == "length"
    await deck.settle()
    assert deck.resident() == set()


@pytest.mark.parametrize(
    ("ask", "kind"),
    [
        (Ask("medical", "", Sampling()), InvalidRequest),
        (Ask("medical", "x" * 256, Sampling()), ContextLengthExceeded),
        (Ask("medical", "x", Sampling(max_tokens=257)), ContextLengthExceeded),
        (Ask("medical", (1, 2, 999), Sampling()), InvalidRequest),
        (Ask("medical", ChatPrompt(()), Sampling()), InvalidRequest),
    ],
)
async def test_bad_requests_are_refused_before_anything_is_loaded(
    deck: Deck, ask: Ask, kind: type[LoradexError]
) -> None:
    await deck.add("medical", 1, load=False)
    with pytest.raises(kind):
        await deck.service.generate(ask)
    assert deck.service.residency.states() == {}


@pytest.mark.parametrize("n", [0, -1, 129])
def test_n_is_bounded(n: int) -> None:
    with pytest.raises(InvalidRequest):
        Ask("medical", "x", Sampling(), n)


async def test_a_conversation_is_answered(deck: Deck) -> None:
    prompt = ChatPrompt((Message("user", "hi"),))
    answer = await deck.service.generate(Ask("base", prompt, Sampling(), request_id="mine"))
    assert answer.request_id == "mine"
    assert answer.prompt_tokens == deck.engine.encode(prompt)
    assert await Stream(answer).rest() == "base: user: hi\nassistant: "


async def test_several_answers_share_one_lease_and_come_interleaved(deck: Deck) -> None:
    await deck.add("medical", 1)
    answer = await deck.service.generate(deck.ask("medical", n=3, max_tokens=10))
    seen: list[int] = []
    ends: dict[int, Finished] = {}
    async for index, event in answer.events():
        seen.append(index)
        if isinstance(event, Finished):
            ends[index] = event
        else:
            assert deck.leases() <= 1
    assert sorted(ends) == [0, 1, 2]
    assert {seen.count(index) for index in range(3)} == {11}
    assert max(abs(seen[:k].count(i) - seen[:k].count(j)) for k in range(33) for i in range(3) for j in range(3)) <= 4
    assert idle(deck)


async def test_equal_request_ids_do_not_meet_in_the_engine(deck: Deck) -> None:
    ask = Ask(None, "hello", Sampling(), request_id="same")
    streams = [Stream(await deck.service.generate(ask)) for _ in range(2)]
    assert await asyncio.gather(*(stream.rest() for stream in streams)) == ["base: hello"] * 2


async def test_an_answer_that_is_never_read_gives_its_lease_back_on_aclose(deck: Deck) -> None:
    await deck.add("medical", 1)
    answer = await deck.service.generate(deck.ask("medical"))
    assert deck.leases() == 1
    await answer.aclose()
    await answer.aclose()
    assert deck.leases() == 0
    with pytest.raises(RuntimeError):
        await anext(answer.events())


async def test_closed_from_another_task_the_stream_ends_early(deck: Deck) -> None:
    await deck.add("medical", 1)
    stream = await deck.endless("medical")
    reading = asyncio.create_task(stream.rest())
    await asyncio.sleep(0)
    await stream.aclose()
    await reading
    assert stream.finished is None
    assert idle(deck)


async def test_left_in_the_middle_everything_is_freed(deck: Deck) -> None:
    await deck.add("medical", 1)
    answer = await deck.service.generate(deck.ask("medical", n=2, ignore_eos=True))
    events = answer.events()
    await anext(events)
    await events.aclose()  # type: ignore[attr-defined]
    assert idle(deck)


async def test_an_engine_that_breaks_in_the_middle_is_reported_and_freed(deck: Deck) -> None:
    digest = await deck.add("medical", 1)
    stream = await deck.endless("medical")
    deck.engine.fail_answer.add(digest)
    with pytest.raises(EngineFailed):
        await stream.rest()
    assert idle(deck)


@pytest.mark.parametrize("after", range(0, 48, 3))
async def test_cancelled_after_any_number_of_turns_nothing_stays_taken(deck: Deck, after: int) -> None:
    await deck.add("medical", 1, load=False)

    async def use() -> None:
        answer = await deck.service.generate(deck.ask("medical", n=2, ignore_eos=True))
        try:
            async for _ in answer.events():
                pass
        finally:
            await answer.aclose()

    task = asyncio.create_task(use())
    for _ in range(after):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait((task,))
    await deck.settle()
    assert task.cancelled()
    assert idle(deck)
    assert (await deck.text("medical")).endswith(": hello")


async def test_cancelled_while_it_loads_and_while_it_waits(make_deck: MakeDeck) -> None:
    deck = await make_deck(max_loras=1)
    await deck.add("medical", 1, load=False)
    await deck.add("legal", 2, load=False)
    deck.engine.loads_allowed.clear()
    loading = asyncio.create_task(deck.service.generate(deck.ask("medical")))
    waiting = asyncio.create_task(deck.service.generate(deck.ask("legal")))
    await until(lambda: deck.waiting() == 2)
    for task in (waiting, loading):
        task.cancel()
        await asyncio.wait((task,))
    assert deck.waiting() == 0
    deck.engine.loads_allowed.set()
    await deck.settle()
    assert idle(deck)


async def test_cancelled_in_the_engines_queue(make_deck: MakeDeck) -> None:
    deck = await make_deck(max_num_seqs=1)
    running = await deck.endless(None)
    waiting = Stream(await deck.service.generate(deck.ask(None)))
    task = asyncio.create_task(waiting.rest())
    await until(lambda: deck.engine.stats().waiting == 1)
    task.cancel()
    await asyncio.wait((task,))
    assert deck.engine.stats().waiting == 0
    await running.aclose()
    assert idle(deck)


async def test_no_slot_in_time_is_overloaded(make_deck: MakeDeck) -> None:
    deck = await make_deck(max_loras=1, queue_seconds=0.01)
    await deck.add("medical", 1)
    await deck.add("legal", 2)
    stream = await deck.endless("legal")
    with pytest.raises(Overloaded):
        await deck.service.generate(deck.ask("medical"))
    await stream.aclose()
    assert (await deck.text("medical")).endswith(": hello")


async def test_a_version_removed_between_lookup_and_lease_is_looked_up_again(make_deck: MakeDeck) -> None:
    deck = await make_deck(max_loras=1)
    await deck.add("medical", 1)
    await deck.add("legal", 9)
    blocker = await deck.endless("legal")
    task = asyncio.create_task(deck.text("medical"))
    await until(lambda: deck.waiting() == 1)  # it has resolved `medical` to version 1, and waits for a slot
    await deck.add("medical", 2, load=False)
    await deck.service.adapters.remove("medical", 1)
    await blocker.aclose()
    assert (await task).startswith(deck.registry.resolve("medical").digest[:8])


async def test_a_name_removed_between_lookup_and_lease_is_not_found(make_deck: MakeDeck) -> None:
    deck = await make_deck(max_loras=1)
    await deck.add("medical", 1)
    await deck.add("legal", 9)
    blocker = await deck.endless("legal")
    task = asyncio.create_task(deck.text("medical"))
    await until(lambda: deck.waiting() == 1)
    await deck.service.adapters.remove("medical")
    await blocker.aclose()
    with pytest.raises(ModelNotFound):
        await task
    assert idle(deck)


async def test_the_old_version_freed_between_lookup_and_lease_is_loaded_again(make_deck: MakeDeck) -> None:
    deck = await make_deck(max_loras=1)
    old = await deck.add("medical", 1)
    await deck.add("legal", 9)
    blocker = await deck.endless("legal")
    task = asyncio.create_task(deck.text("medical"))
    await until(lambda: deck.waiting() == 1)
    await deck.add("medical", 2, load=False)
    await blocker.aclose()
    assert (await task).startswith(old[:8])


async def test_files_that_are_gone_are_reported(deck: Deck) -> None:
    digest = await deck.add("medical", 1, load=False)
    deck.registry.adapter(digest).weights.unlink()
    with pytest.raises(AdapterDamaged):
        await deck.service.generate(deck.ask("medical"))
    assert deck.service.residency.states() == {}


async def test_a_service_that_is_not_running_refuses(deck: Deck) -> None:
    await deck.service.stop()
    assert not deck.service.ready
    with pytest.raises(EngineStopped):
        await deck.service.generate(deck.ask(None))
