"""What it costs to change adapters: loads, switches, and what streams that go on feel of loads and replaces."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from loradex.adapters.adapter import Adapter
from loradex.bench.bed import Bed, Plan, ServiceBed, service_bed
from loradex.bench.deck import Tell
from loradex.bench.disk import evict, read_seconds
from loradex.bench.floor import Floor, measure
from loradex.bench.pairs import Pairs, in_turn, percentile
from loradex.bench.play import Played, play
from loradex.bench.result import Record, Result
from loradex.bench.target import ServiceTarget
from loradex.bench.workload import Request, Workload
from loradex.engine.base import Engine

SPARE_SLOTS = 4
"""Slots beside those of the streams: for what is loaded, and for a replaced version beside its successor."""

POOL = 8
"""Adapters beyond those of the streams that are loaded in turn."""

Act = Callable[[], Awaitable[object]]


async def swap(plan: Plan, workload: Workload, period: float, tell: Tell) -> Result:
    """Measure loads and switches, then the p99 gap of streams with and without them.

    Args:
        plan: what it is measured on; it has at least `POOL` adapters more than the streams use.
        workload: of the streams that go on; its input and output also shape the first tokens.
        period: seconds from one load or replace to the next.
        tell: told how far it is.
    """
    record = Record("swap", plan.name)
    streams = workload.adapters
    plan = replace(plan, adapters=max(plan.adapters, streams + POOL))
    # The last one is not registered: it is loaded past the service, whose books must stay true.
    async with service_bed(plan, tell, slots=streams + SPARE_SLOTS, register=plan.adapters - 1) as bed:
        workload = replace(workload, vocab_size=bed.bed.info.vocab_size)
        floor = await measure(plan.engine, bed.bed.info.dtype, bed.bed.info.device)
        rows = await load_rows(bed.bed, bed.bed.adapters[-1], plan.pairs, floor)
        rows += await first_token_rows(bed, workload.make()[0], plan.pairs)
        gaps, raw = await gap_rows(bed, workload, period, plan.pairs, tell)
        model = bed.bed.describe(plan.kind)
    described = workload.describe() | {"period": period}
    return record.result(rows + gaps, floor=floor, workload=described, model=model, raw=raw)


async def load_rows(bed: Bed, adapter: Adapter, pairs: int, floor: Floor | None) -> list[Pairs]:
    """Load one adapter with its files out of the page cache, and in it; beside reading the same bytes from there.

    The bytes are those of its pack, which registration makes; of its own file where the engine keeps no packs.
    """
    await bed.engine.prepare(adapter)
    files = bed.packs.files(adapter.digest) or [adapter.weights]
    everything = [*files, *(path for path in adapter.path.iterdir() if path.is_file())]
    cold_reads: list[float] = []
    warm_reads: list[float] = []

    async def cold() -> float:
        evict(everything)
        cold_reads.append(await asyncio.to_thread(read_seconds, files))
        evict(everything)
        return await _load_seconds(bed.engine, adapter)

    async def warm() -> float:
        warm_reads.append(await asyncio.to_thread(read_seconds, files))
        return await _load_seconds(bed.engine, adapter)

    a, b = await in_turn(cold, warm, pairs)
    disk, cache = tuple(cold_reads[1:]), tuple(warm_reads[1:])
    least = sum(path.stat().st_size for path in files) / floor.bandwidth if floor else None
    return [
        Pairs("cold load", "cold", "warm", "s", tuple(a), tuple(b), "lower", floor=percentile(disk, 50)),
        Pairs("cold load over read", "cold", "read from disk", "s", tuple(a), disk, "lower"),
        Pairs("warm load over read", "warm", "read from cache", "s", tuple(b), cache, "lower", floor=least),
    ]


async def _load_seconds(engine: Engine, adapter: Adapter) -> float:
    began = time.perf_counter()
    await engine.load(adapter)
    spent = time.perf_counter() - began
    await engine.unload(adapter.digest)
    return spent


async def first_token_rows(bed: ServiceBed, request: Request, pairs: int) -> list[Pairs]:
    """Time the first token on an adapter that has to be loaded from its pack, on a resident one, and after a switch."""
    target = ServiceTarget(bed.service, bed.names)
    one, other = (replace(request, adapter=number, output=1) for number in (0, 1))

    async def first(asked: Request) -> float:
        return (await play(target, [asked])).ttfts[0]

    async def not_resident() -> float:
        await bed.service.residents.unload(bed.names[0])
        await bed.service.residency.settle()
        return await first(one)

    async def resident() -> float:
        return await first(one)

    async def switched() -> float:
        await first(other)
        return await first(one)

    async def same() -> float:
        await first(one)
        return await first(one)

    loaded, warm = await in_turn(not_resident, resident, pairs)
    after_other, after_same = await in_turn(switched, same, pairs)
    return [
        Pairs("first token", "not resident", "resident", "s", tuple(loaded), tuple(warm), "lower"),
        Pairs("resident switch", "switched", "same", "s", tuple(after_other), tuple(after_same), "lower"),
    ]


async def gap_rows(
    bed: ServiceBed, workload: Workload, period: float, pairs: int, tell: Tell
) -> tuple[list[Pairs], dict[str, Any]]:
    """Return the p99 gap of the streams while adapters are loaded, and while one is replaced, against neither."""
    target = ServiceTarget(bed.service, bed.names)
    requests = workload.make()
    rows: list[Pairs] = []
    raw: dict[str, Any] = {}
    for what, act in (("loading", _loads(bed, workload.adapters)), ("replacing", _replaces(bed, workload.adapters))):
        done: list[float] = []

        async def disturbed(act: Act = act, done: list[float] = done) -> Played:
            async with every(period, act, done):
                return await play(target, requests)

        a, b = await in_turn(disturbed, lambda: play(target, requests), pairs, tell)
        with_it = tuple(percentile(run.steady_gaps, 99) for run in a)
        without = tuple(percentile(run.steady_gaps, 99) for run in b)
        rows.append(Pairs(f"p99 gap while {what}", what, "undisturbed", "s", with_it, without, "lower"))
        raw[what] = {"seconds": done, "a": [run.describe() for run in a], "b": [run.describe() for run in b]}
    return rows, raw


def _loads(bed: ServiceBed, streams: int) -> Act:
    """Return what loads the next adapter that no stream uses; the least recently used one makes room."""
    names = itertools.cycle(bed.names[streams:])

    async def load() -> None:
        name = next(names)
        await bed.service.residents.unload(name)
        await bed.service.residency.settle()
        await bed.service.residents.load(name)

    return load


def _replaces(bed: ServiceBed, streams: int) -> Act:
    """Return what gives the name `hot` its next version."""
    paths = itertools.cycle([adapter.path for adapter in bed.bed.adapters[streams:-1]])
    return lambda: bed.service.adapters.add("hot", next(paths), trusted=True, actor="bench")


@asynccontextmanager
async def every(period: float, act: Act, done: list[float]) -> AsyncIterator[None]:
    """Do something again and again while the body runs, never twice at once.

    From one start to the next it takes `period` seconds, or as long as the doing; `done` gets the seconds of each.
    """

    over = asyncio.Event()

    async def again() -> None:
        while not over.is_set():
            began = time.perf_counter()
            await act()
            done.append(time.perf_counter() - began)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(over.wait(), max(0.0, period - done[-1]))

    task = asyncio.create_task(again())
    try:
        yield
    finally:
        # What is under way comes to its end, so that the next run begins with a quiet engine.
        over.set()
        await task
