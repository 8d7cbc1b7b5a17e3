"""How every engine loads, frees and switches adapters, and how it stops."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path

import pytest

from loradex.core.mix import Mix
from loradex.engine.base import Engine
from loradex.errors import AdapterDamaged, Conflict, EngineStopped, LoradexError, Overloaded

from .asking import begin, close, endless, idle, until, whole
from .conftest import Save, Start


async def test_a_loaded_adapter_is_resident_and_answers(engine: Engine, save: Save) -> None:
    adapter = save(engine, 1)
    report = await engine.load(adapter)
    assert min(report.read_seconds, report.install_seconds) >= 0
    (resident,) = engine.resident()
    assert (resident.digest, resident.running, resident.waiting) == (adapter.digest, 0, 0)
    assert resident.bytes > 0
    assert (await whole(begin(engine, adapter.digest))).end.mix == Mix.of(adapter.digest)


async def test_loading_what_is_resident_does_nothing(engine: Engine, save: Save) -> None:
    adapter = save(engine, 1)
    for _ in range(2):
        await engine.load(adapter)
    assert len(engine.resident()) == 1


async def test_a_prepared_adapter_is_not_resident_and_loads_like_any_other(engine: Engine, save: Save) -> None:
    adapter = save(engine, 1)
    await engine.prepare(adapter)
    await engine.prepare(adapter, lambda stage, share: None)
    assert engine.resident() == ()
    with pytest.raises(LoradexError):
        await whole(begin(engine, adapter.digest))
    await engine.load(adapter)
    assert (await whole(begin(engine, adapter.digest))).end.mix == Mix.of(adapter.digest)


async def test_a_staged_adapter_is_not_resident_and_loads_like_any_other(engine: Engine, save: Save) -> None:
    adapter = save(engine, 1)
    held = await engine.stage(adapter)
    assert engine.host_tier or held == 0
    assert engine.resident() == ()
    await engine.load(adapter)
    engine.unstage(adapter.digest)
    engine.unstage("0" * 64)
    assert (await whole(begin(engine, adapter.digest))).end.mix == Mix.of(adapter.digest)


async def test_the_footprint_is_what_it_takes(engine: Engine, save: Save) -> None:
    adapter = save(engine, 1)
    expected = engine.footprint(adapter)
    report = await engine.load(adapter)
    assert engine.resident()[0].bytes == report.bytes == expected


async def test_there_are_max_loras_slots(engine: Engine, save: Save) -> None:
    adapters = [save(engine, seed) for seed in range(3)]
    for adapter in adapters[:2]:
        await engine.load(adapter)
    with pytest.raises(Overloaded):
        await engine.load(adapters[2])
    assert {resident.digest for resident in engine.resident()} == {adapter.digest for adapter in adapters[:2]}
    await engine.unload(adapters[0].digest)
    await engine.load(adapters[2])
    assert len({resident.slot for resident in engine.resident()}) == 2


async def test_files_that_are_gone_are_damage_and_leave_nothing(engine: Engine, save: Save) -> None:
    adapter = save(engine, 1)
    moved = dataclasses.replace(adapter, path=Path(adapter.path / "elsewhere"))
    with pytest.raises(AdapterDamaged):
        await engine.load(moved)
    assert engine.resident() == ()
    await engine.load(adapter)


async def test_many_adapters_and_the_base_answer_together_as_alone(engine: Engine, save: Save) -> None:
    adapters = [save(engine, seed) for seed in range(2)]
    for adapter in adapters:
        await engine.load(adapter)
    digests = [None, *(adapter.digest for adapter in adapters)]
    alone = [(await whole(begin(engine, digest))).tokens for digest in digests]
    together = await asyncio.gather(*(whole(begin(engine, digest)) for digest in digests))
    assert [answer.tokens for answer in together] == alone
    assert [answer.end.mix for answer in together] == [Mix.of(digest) for digest in digests]


async def test_mixes_answer_beside_their_members_as_alone(engine: Engine, save: Save) -> None:
    one, other = save(engine, 1), save(engine, 2)
    await engine.load(one)
    await engine.load(other)
    half, rest = ((one.digest, 0.5), (other.digest, 0.5)), ((one.digest, -0.25), (other.digest, 3.0))
    mixes = [Mix(), Mix.of(one.digest), Mix(half), Mix(rest), Mix.of(other.digest)]
    alone = [(await whole(begin(engine, mix))).tokens for mix in mixes]
    together = await asyncio.gather(*(whole(begin(engine, mix)) for mix in mixes))
    assert [answer.tokens for answer in together] == alone
    assert [answer.end.mix for answer in together] == mixes
    assert len(set(alone)) == 5


async def test_a_mix_uses_all_of_its_members(start: Start, save: Save) -> None:
    engine = await start(max_loras=3)
    one, other, third = (save(engine, seed) for seed in (1, 2, 3))
    for adapter in (one, other, third):
        await engine.load(adapter)
    task = asyncio.create_task(whole(endless(engine, Mix(((one.digest, 0.5), (other.digest, 0.5))))))
    await until(lambda: engine.stats().running == 1)
    assert [resident.running for resident in engine.resident()] == [1, 1, 0]
    for adapter in (one, other):
        with pytest.raises(Conflict):
            await engine.unload(adapter.digest)
    assert await engine.switch(other.digest, third.digest) == 1
    await engine.unload(other.digest)
    assert [resident.running for resident in engine.resident()] == [1, 1]
    assert (await task).end.mix == Mix(((one.digest, 0.5), (third.digest, 0.5)))


async def test_weights_in_use_are_not_freed(engine: Engine, save: Save) -> None:
    adapter = save(engine, 1)
    await engine.load(adapter)
    events = endless(engine, adapter.digest)
    await anext(events)
    with pytest.raises(Conflict):
        await engine.unload(adapter.digest)
    assert len(engine.resident()) == 1
    await close(events)
    await engine.unload(adapter.digest)
    assert engine.resident() == ()


async def test_a_switch_moves_running_and_waiting_requests(start: Start, save: Save) -> None:
    engine = await start(max_loras=2, max_num_seqs=1)
    old, new = save(engine, 1), save(engine, 2)
    await engine.load(old)
    await engine.load(new)
    running, waiting, base = (asyncio.create_task(whole(endless(engine, d))) for d in (old.digest, old.digest, None))
    await until(lambda: engine.stats().running == 1 and engine.stats().waiting == 2)
    assert await engine.switch(old.digest, new.digest) == 2
    await engine.unload(old.digest)
    ends = [answer.end.mix for answer in await asyncio.gather(running, waiting, base)]
    assert ends == [Mix.of(new.digest), Mix.of(new.digest), Mix()]


async def test_a_switch_of_some_requests_leaves_the_others(start: Start, save: Save) -> None:
    engine = await start(max_loras=2)
    old, new = save(engine, 1), save(engine, 2)
    await engine.load(old)
    await engine.load(new)
    names = ("goes", "stays")
    tasks = [asyncio.create_task(whole(endless(engine, old.digest, name))) for name in names]
    await until(lambda: engine.stats().running == 2)
    assert await engine.switch(old.digest, new.digest, {"goes", "unknown"}) == 1
    assert [(await task).end.mix for task in tasks] == [Mix.of(new.digest), Mix.of(old.digest)]


async def test_a_request_counts_from_its_first_turn(engine: Engine, save: Save) -> None:
    old, new = save(engine, 1), save(engine, 2)
    await engine.load(old)
    await engine.load(new)
    task = asyncio.create_task(whole(endless(engine, old.digest)))
    await asyncio.sleep(0)
    assert await engine.switch(old.digest, new.digest) == 1
    assert (await task).end.mix == Mix.of(new.digest)


async def test_stopping_ends_what_runs_and_may_be_done_twice(engine: Engine) -> None:
    task = asyncio.create_task(whole(endless(engine)))
    await until(lambda: not idle(engine))
    await engine.stop()
    with pytest.raises(EngineStopped):
        await task
    await engine.stop()
    with pytest.raises(EngineStopped):
        await whole(begin(engine))
