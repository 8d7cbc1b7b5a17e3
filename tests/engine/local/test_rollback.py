"""Versions come and go under load, on the real engine: nothing is lost, and no answer is of two versions."""

from __future__ import annotations

import asyncio
import itertools
import json
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from loradex.core.event import Delta, Finished
from loradex.core.sampling import Sampling
from loradex.engine.config import EngineConfig
from loradex.engine.local.engine import LocalEngine
from loradex.engine.local.plan import StepPlan
from loradex.registry.registry import Registry
from loradex.service.adapters import Mode
from loradex.service.generate import Ask
from loradex.service.service import Service
from loradex.service.shadow import Copy, Shadows
from tests.service.deck import save_adapter

from .tiny import Family

PROMPTS = ("what is a fever", "hello", "one two three four five")
TOKENS = Sampling(temperature=0.0, max_tokens=24, ignore_eos=True)
VERSIONS = (1, 2, 3)


@pytest_asyncio.fixture
async def service(family: Callable[[str], Family], tmp_path: Path) -> AsyncIterator[Service]:
    engine = LocalEngine(EngineConfig(model=str(family("qwen2").base), max_loras=4, max_batched_tokens=64, threads=1))
    service = Service(Registry(tmp_path / "home"), engine, max_lora_rank=8, max_loras=4)
    await service.start()
    for seed in VERSIONS:
        folder = save_adapter(tmp_path / str(seed), service.info, seed=seed, rank=2 + seed)
        await service.adapters.add("medical", folder, trusted=True)
    yield service
    await service.stop()
    service.registry.close()


async def answer(service: Service, model: str, prompt: str) -> tuple[list[int], str]:
    """Return the versions that spoke, and what they said; any error, or an end that is none, fails the test."""
    said, end = "", None
    begun = await service.generate(Ask(model, prompt, TOKENS))
    async for _, event in begun.events():
        if isinstance(event, Delta):
            said += event.text
        else:
            end = event
    assert isinstance(end, Finished)
    assert (end.reason, end.completion_tokens) == ("length", TOKENS.max_tokens)
    return [ref.version for mix in begun.spoken for ref in mix.adapters], said


async def moves(service: Service, mode: Mode, count: int) -> None:
    """Promote and roll back, with a canary in between that is rolled back too."""
    verbs = service.adapters
    for version in itertools.islice(itertools.cycle(VERSIONS), count):
        before = service.registry.resolve("medical").version
        await verbs.promote("medical", version, mode=mode)
        await asyncio.sleep(0.02)
        if before != version:
            await service.rollout.canary("medical", {before: 40})
            await asyncio.sleep(0.02)
            await verbs.rollback("medical", mode=mode)  # ends the canary
            assert (await verbs.rollback("medical", mode=mode)).ref.version == before
            await verbs.promote("medical", version, mode=mode)


async def test_a_copy_for_a_shadow_is_not_dropped_because_of_its_own_long_step(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await service.rollout.shadow("medical", 1)
    shadow = service.registry.resolve("medical@1").digest
    runner = service.engine._loop._runner
    is_busy, execute, looks, looked = Shadows._is_busy, runner.execute, itertools.count(), threading.Event()

    def look(shadows: Shadows, copy: Copy) -> bool:
        if next(looks) > 3:
            looked.set()
        return is_busy(shadows, copy)

    def execute_slowly(plan: StepPlan) -> object:
        if any(shadow in chunk.sequence.mix for chunk in plan.chunks):
            looked.wait(10)
        return execute(plan)

    monkeypatch.setattr(Shadows, "_is_busy", look)
    monkeypatch.setattr(runner, "execute", execute_slowly)
    _, said = await answer(service, "medical", PROMPTS[0])
    journal = tmp_path / "home" / "shadows" / "medical.jsonl"
    async with asyncio.timeout(30):
        while not journal.exists() or not journal.read_text("utf-8"):
            await asyncio.sleep(0.005)
    kept = json.loads(journal.read_text("utf-8"))
    assert kept["answer"]["text"] == said
    assert (kept["shadow"]["adapter"], kept["shadow"]["finish_reason"], kept["same"]) == ("medical@1", "length", False)


@pytest.mark.parametrize("mode", ["drain", "immediate"])
async def test_a_rollback_under_load_loses_and_mixes_nothing(service: Service, mode: Mode) -> None:
    alone = {
        (version, prompt): (await answer(service, f"medical@{version}", prompt))[1]
        for version in VERSIONS
        for prompt in PROMPTS
    }
    assert len(set(alone.values())) == len(alone)
    over = False
    spoke: Counter[tuple[int, ...]] = Counter()

    async def stream(model: str, prompt: str) -> None:
        while not over:
            versions, said = await answer(service, model, prompt)
            spoke[tuple(versions)] += 1
            if len(versions) == 1:
                assert said == alone[versions[0], prompt]
            if "@" in model:
                assert versions == [int(model.partition("@")[2])]

    async with asyncio.TaskGroup() as load:
        for model, prompt in itertools.product(("medical", "medical", "medical", "medical@1"), PROMPTS):
            load.create_task(stream(model, prompt))
        await moves(service, mode, 6)
        over = True
    assert {version for versions in spoke for version in versions} == set(VERSIONS)
    assert (max(map(len, spoke)) > 1) == (mode == "immediate")
    await service.residency.settle()
    assert all(hold.leases == 0 for hold in service.residency.states().values())
    stats = service.engine.stats()
    assert (stats.running, stats.waiting, stats.blocks_free) == (0, 0, stats.blocks_total)
    for (version, prompt), said in alone.items():  # no cached block of one version is read by another
        assert await answer(service, f"medical@{version}", prompt) == ([version], said)
