"""Requests on several adapters: who answers, what is held, and that nobody waits for ever."""

from __future__ import annotations

import asyncio

import pytest

from loradex.core.adapter import Reference
from loradex.core.mix import Mix
from loradex.core.sampling import Sampling
from loradex.errors import AdapterDamaged, AdapterTooLarge, InvalidRequest, LoradexError, ModelNotFound, Overloaded
from loradex.service.generate import Ask

from .conftest import MakeDeck
from .deck import Deck, Stream, until


def label(*members: tuple[str, str]) -> str:
    """How the fake engine names a mix: (digest, weight as written) by digest."""
    return "+".join(digest[:8] + weight for digest, weight in sorted(members))


async def test_a_mix_answers_under_all_of_its_members(deck: Deck) -> None:
    medical, legal = await deck.add("medical", 1), await deck.add("legal", 2)
    await deck.add("medical", 3)
    answer = await deck.service.generate(deck.ask("medical@1*0.7+legal*0.3"))
    assert answer.model == "medical@1*0.7+legal*0.3"
    assert str(answer.mix) == "medical@1*0.7+legal@1*0.3"
    assert await Stream(answer).rest() == f"{label((medical, '*0.7'), (legal, '*0.3'))}: hello"
    assert deck.leases() == 0


@pytest.mark.parametrize("model", ["medical+legal*0.5", "tiny:medical+legal*0.5", "base:legal*0.5+medical"])
async def test_the_order_and_the_base_in_front_change_nothing(deck: Deck, model: str) -> None:
    medical, legal = await deck.add("medical", 1), await deck.add("legal", 2)
    assert await deck.text(model) == f"{label((medical, ''), (legal, '*0.5'))}: hello"


async def test_the_mix_may_come_beside_the_model(deck: Deck) -> None:
    medical, legal = await deck.add("medical", 1), await deck.add("legal", 2)
    mix = Mix(((Reference("medical"), 0.5), (Reference("legal"), -1.0)))
    for model in ("base", "tiny", "", None):
        answer = await deck.service.generate(Ask(model, "hello", Sampling(), adapters=mix))
        assert answer.model == "medical*0.5+legal*-1"
        assert await Stream(answer).rest() == f"{label((medical, '*0.5'), (legal, '*-1'))}: hello"
    with pytest.raises(InvalidRequest, match=r"`medical` and `medical\*0.5\+legal\*-1`"):
        await deck.service.generate(Ask("medical", "hello", Sampling(), adapters=mix))


async def test_two_names_of_one_version_are_one_member(deck: Deck) -> None:
    digest = await deck.add("medical", 1)
    await deck.add("legal", 1)
    await deck.service.adapters.promote("medical", 1, "prod")
    assert await deck.text("medical*0.5+medical@prod*0.25+legal*0.25") == f"{digest[:8]}: hello"


async def test_what_a_mix_cannot_be(make_deck: MakeDeck) -> None:
    deck = await make_deck(max_loras=2)
    for seed, name in enumerate(("medical", "legal", "code")):
        await deck.add(name, seed, load=False)
    for model, said in (
        ("medical*0.5+legal*x", "is no weight"),
        ("medical+legal+code", "3 adapters; the engine holds 2"),
    ):
        with pytest.raises(InvalidRequest, match=said):
            await deck.service.generate(deck.ask(model))
    with pytest.raises(ModelNotFound, match="`lgal`") as caught:
        await deck.service.generate(deck.ask("medical*0.5+lgal*0.5"))
    assert "legal" in str(caught.value.hint)
    assert deck.leases() == 0


async def test_a_mix_counts_for_each_of_its_members(deck: Deck) -> None:
    for seed, name in enumerate(("medical", "legal")):
        await deck.add(name, seed)
    await deck.text("medical*0.5+legal*0.5")
    rendered = deck.service.metrics.render().decode()
    for name in ("medical", "legal"):
        assert f'loradex_requests_total{{adapter="{name}",outcome="stop",version="1"}} 1.0' in rendered
    assert 'vllm:request_success_total{finished_reason="stop",model_name="tiny"} 1.0' in rendered


async def test_two_mixes_that_need_each_others_slots_both_answer(make_deck: MakeDeck) -> None:
    """Each would get one of two slots and wait for the other, until both time out."""
    deck = await make_deck(max_loras=2, queue_seconds=2.0)
    for seed, name in enumerate("abcdef"):
        await deck.add(name, seed, load=False)
    for _ in range(3):
        texts = await asyncio.gather(*(deck.text(mix) for mix in ("a+b", "c+d", "e+f", "b+c", "d*2+a")))
        assert all(text.endswith(": hello") for text in texts)
    assert deck.leases() == deck.waiting() == 0


async def test_random_mixes_and_single_adapters_all_answer(make_deck: MakeDeck) -> None:
    deck = await make_deck(max_loras=3, queue_seconds=5.0, fair_seconds=0.02)
    for seed, name in enumerate("abcdef"):
        await deck.add(name, seed, load=False)
    asked = [(first, second) for first in "abcdef" for second in "abcdef"]
    texts = await asyncio.gather(*(deck.text(one if one == two else f"{one}*0.5+{two}") for one, two in asked))
    assert all(text.endswith(": hello") for text in texts)
    await deck.settle()
    assert deck.leases() == deck.waiting() == 0
    assert len(deck.resident()) <= 3


async def test_a_mix_that_waits_does_not_close_its_own_slot(make_deck: MakeDeck) -> None:
    """It waits for what a busy adapter holds, so that is closed to newcomers; what it holds itself is never freed."""
    deck = await make_deck(max_loras=2, fair_seconds=0.02)
    for seed, name in enumerate(("busy", "one", "two")):
        await deck.add(name, seed, load=False)
    busy = [await deck.endless("busy") for _ in range(2)]
    mix = asyncio.create_task(deck.text("one+two"))
    await until(lambda: any(entry.closed for entry in deck.service.residency._entries.values()))
    late = asyncio.create_task(deck.text("busy"))
    await asyncio.sleep(0.05)
    assert not mix.done()
    assert not late.done()
    for stream in busy:
        await stream.aclose()
    assert (await mix).endswith(": hello")
    assert (await late).endswith(": hello")


async def test_resident_members_need_not_wait_behind_a_mix_that_waits(make_deck: MakeDeck) -> None:
    deck = await make_deck(max_loras=3)
    for seed, name in enumerate("abcd"):
        await deck.add(name, seed, load=False)
    held = [await deck.endless("a"), await deck.endless("b")]
    waits = asyncio.create_task(deck.text("c+d"))
    await until(lambda: deck.waiting() == 1 and len(deck.resident()) == 3)
    assert (await deck.text("a*0.5+b*0.5")).endswith(": hello")
    assert not waits.done()
    for stream in held:
        await stream.aclose()
    assert (await waits).endswith(": hello")


async def test_other_mixes_wait_only_so_long(make_deck: MakeDeck) -> None:
    deck = await make_deck(max_loras=2, queue_seconds=0.2)
    for seed, name in enumerate("abcde"):
        await deck.add(name, seed, load=False)
    held = await deck.endless("a")
    refused = await asyncio.gather(*(deck.text(mix) for mix in ("b+c", "d+e")), return_exceptions=True)
    assert [type(error) for error in refused] == [Overloaded, Overloaded]
    await held.aclose()
    assert (await deck.text("d+e")).endswith(": hello")
    assert deck.leases() == deck.waiting() == 0


async def test_a_mix_that_cannot_fit_is_refused_at_once(make_deck: MakeDeck) -> None:
    """Each of its members fits, and is served; a wait for room for all of them would be in vain."""
    deck = await make_deck(memory=10_000, queue_seconds=3600.0)
    for seed, name in enumerate("abc"):
        await deck.add(name, seed, load=False)
    held = await deck.endless("c")
    async with asyncio.timeout(5):
        with pytest.raises(AdapterTooLarge, match="The 3 adapters of the mix need") as caught:
            await deck.service.generate(deck.ask("a+b+c"))
    assert "--adapter-memory" in caught.value.hint
    assert deck.waiting() == 0
    await held.aclose()
    assert (await deck.text("a+b")).endswith(": hello")
    await deck.service.residents.pin("c")
    async with asyncio.timeout(5):
        with pytest.raises(AdapterTooLarge, match="beside 1 pinned") as caught:
            await deck.service.generate(deck.ask("a+b"))
    assert "unpin" in caught.value.hint


async def test_who_is_cancelled_on_the_way_leaves_nothing(make_deck: MakeDeck) -> None:
    deck = await make_deck(max_loras=2)
    for seed, name in enumerate("abc"):
        await deck.add(name, seed, load=False)
    held = await deck.endless("a")
    for turns in range(60):
        task = asyncio.create_task(deck.service.generate(deck.ask("b+c")))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait((task,))
        await until(lambda: deck.leases() == 1 and deck.waiting() == 0)
    await held.aclose()
    assert (await deck.text("b+c")).endswith(": hello")


async def test_a_member_that_cannot_be_loaded_lets_the_others_go(deck: Deck) -> None:
    await deck.add("good", 1, load=False)
    bad = await deck.add("bad", 2, load=False)
    deck.engine.fail_load.add(bad)
    with pytest.raises(LoradexError, match="told to fail the load"):
        await deck.service.generate(deck.ask("good*0.5+bad*0.5"))
    await until(lambda: deck.leases() == deck.waiting() == 0)
    next((deck.registry.home / "blobs").rglob(f"{bad}/adapter_model.safetensors")).unlink()
    deck.engine.fail_load.clear()
    with pytest.raises(AdapterDamaged):
        await deck.service.generate(deck.ask("good*0.5+bad*0.5"))
    await until(lambda: deck.leases() == deck.waiting() == 0)
    assert (await deck.text("good*0.5")).endswith("*0.5: hello")


async def test_drain_keeps_the_old_version_of_a_member(deck: Deck) -> None:
    old, legal = await deck.add("medical", 1), await deck.add("legal", 2)
    stream = await deck.endless("medical*0.5+legal*0.5")
    new = (await deck.service.adapters.add("medical", deck.files(3))).ref.digest
    assert await deck.text("medical*0.5+legal*0.5") == f"{label((new, '*0.5'), (legal, '*0.5'))}: hello"
    assert (await stream.rest()).startswith(label((old, "*0.5"), (legal, "*0.5")))
    assert "|" not in stream.text
    await deck.settle()
    assert deck.resident() == {new, legal}


async def test_immediate_switches_the_member_and_leaves_the_rest(deck: Deck) -> None:
    old, legal = await deck.add("medical", 1), await deck.add("legal", 2)
    streams = [await deck.endless("medical*0.5+legal*2"), await deck.endless("medical@1*0.5+legal*2")]
    change = await deck.service.adapters.add("medical", deck.files(3), mode="immediate")
    new = change.ref.digest
    assert change.moved == 1
    for stream, digest in zip(streams, (new, old), strict=True):
        await stream.rest()
        assert stream.finished is not None
        assert dict(stream.finished.mix.members) == {digest: 0.5, legal: 2.0}
    assert [sorted(map(str, mix.adapters)) for mix in streams[0].answer.spoken] == [
        ["legal@1", "medical@1"],
        ["legal@1", "medical@2"],
    ]
    assert [str(mix) for mix in streams[1].answer.spoken] == ["medical@1*0.5+legal@1*2"]
    await deck.settle()
    assert deck.resident() == {new, legal}
    assert deck.leases() == 0


async def test_a_version_asked_for_by_two_names_stays_when_one_of_them_moves(deck: Deck) -> None:
    await deck.add("medical", 1)
    await deck.service.adapters.promote("medical", 1, "prod")
    stream = await deck.endless("medical*0.5+medical@prod*0.5")
    await deck.add("medical", 2)
    apart = await deck.endless("medical*0.5+medical@prod*0.5")
    # Both aliases come together on version 3 at once, in a request that began on two versions.
    await deck.service.adapters.promote("medical", 2, "prod", mode="immediate")
    change = await deck.service.adapters.add("medical", deck.files(3), mode="immediate")
    assert change.moved == 0
    for each in (stream, apart):
        await each.rest()
        assert each.finished is not None
        assert change.ref.digest not in each.finished.mix
        assert sum(weight for _, weight in each.finished.mix.members) == 1
    await deck.settle()
    assert deck.leases() == 0
