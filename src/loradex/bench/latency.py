"""TTFT and ITL under requests that come one by one: percentiles of one side against another."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from loradex.bench.bed import Plan, engine_bed
from loradex.bench.deck import Tell
from loradex.bench.floor import Floor, measure
from loradex.bench.pairs import Pairs, percentile
from loradex.bench.play import Played, play
from loradex.bench.result import Record, Result
from loradex.bench.target import EngineTarget
from loradex.bench.throughput import Side, compare
from loradex.bench.workload import Workload

SHARES = (50, 95, 99)


def rows(a: Side, b: Side, first: Sequence[Played], second: Sequence[Played], floor: Floor | None) -> list[Pairs]:
    """Return the ratios of TTFT and ITL, in seconds, at each percentile."""
    best = _best(a, floor)
    parts: tuple[tuple[str, Callable[[Played], list[float]]], ...] = (
        ("TTFT", lambda run: run.ttfts),
        ("ITL", lambda run: run.gaps),
    )
    return [
        Pairs(
            f"{what} p{share}",
            a.name,
            b.name,
            "s",
            tuple(percentile(values(run), share) for run in first),
            tuple(percentile(values(run), share) for run in second),
            better="lower",
            floor=best.get(what),
        )
        for what, values in parts
        for share in SHARES
    ]


def _best(side: Side, floor: Floor | None) -> dict[str, float]:
    """Return the least seconds for one request that is alone: its prompt, and one decode step."""
    if side.cost is None or floor is None or not side.requests:
        return {}
    cost = side.cost
    alone = [cost.prefill_seconds([each], floor) for each in side.requests]
    step = [cost.step_bytes([each.adapter], len(each.tokens)) / floor.bandwidth for each in side.requests]
    return {"TTFT": statistics.median(alone), "ITL": statistics.median(step)}


async def capacity(side: Side, batch: int) -> float:
    """Return the requests a second that a side answers when they come as fast as it can take them."""
    at_once = [replace(each, at=0.0) for each in side.requests]
    run = await play(side.target, at_once, limit=batch)
    return len(at_once) / run.seconds if run.seconds else 0.0


async def latency(plan: Plan, workload: Workload, load: float, tell: Tell) -> Result:
    """Measure a workload against the same requests on the base, at the same moments, in this process.

    Args:
        plan: what it is measured on.
        workload: with a rate, or with rate 0 for a share of the capacity.
        load: that share; the capacity is A's own, measured first.
        tell: told how far it is.
    """
    record = Record("latency", plan.name)
    async with engine_bed(plan, tell) as bed:
        workload = replace(workload, vocab_size=bed.info.vocab_size)
        target = EngineTarget(bed.engine, bed.digests)
        a = Side(workload.popularity, target, workload.make(), bed.cost)
        workload = await paced(a, workload, load, plan.batch)
        a = replace(a, requests=workload.make())
        b = replace(a, name="base", requests=workload.base().make())
        floor = await measure(plan.engine, bed.info.dtype, bed.info.device)
        return await _result(record, a, b, plan, workload, floor, bed.describe(plan.kind), tell)


async def latency_of(a: Side, b: Side, plan: Plan, workload: Workload, load: float, tell: Tell) -> Result:
    """Measure two sides that run already, such as two servers; the moments of the requests are set here."""
    record = Record("latency", plan.name)
    workload = await paced(a, workload, load, plan.batch)
    moments = [each.at for each in workload.make()]
    a, b = a.timed(moments), b.timed(moments)
    floor = await measure(plan.engine, "bfloat16")
    model = {"adapter_class": plan.kind.name, "adapters": plan.adapters}
    return await _result(record, a, b, plan, workload, floor, model, tell)


async def paced(side: Side, workload: Workload, load: float, batch: int) -> Workload:
    """Return the workload with a rate: its own, or that share of what the side can take."""
    if workload.rate:
        return workload
    await play(side.target, [replace(each, at=0.0) for each in side.requests], limit=batch)
    return replace(workload, rate=load * await capacity(side, batch))


async def _result(
    record: Record,
    a: Side,
    b: Side,
    plan: Plan,
    workload: Workload,
    floor: Floor | None,
    model: dict[str, Any],
    tell: Tell,
) -> Result:
    found = await compare(a, b, plan.pairs, tell)
    raw: dict[str, Any] = {"a": [run.describe() for run in found.a], "b": [run.describe() for run in found.b]}
    ratios = rows(a, b, found.a, found.b, floor)
    return record.result(ratios, floor=floor, workload=workload.describe(), model=model, raw=raw)
