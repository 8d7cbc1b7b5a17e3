"""What it costs that a step's adapter is another one than that of the step before, both resident."""

from __future__ import annotations

import time
from dataclasses import replace
from statistics import median
from typing import Any

from loradex.bench.bed import Bed, Plan, engine_bed
from loradex.bench.deck import Tell
from loradex.bench.floor import measure
from loradex.bench.pairs import Pairs, in_turn, percentile
from loradex.bench.result import Record, Result
from loradex.core.event import Finished
from loradex.core.mix import Mix
from loradex.core.request import GenerateRequest
from loradex.core.sampling import Sampling

_ONE = Sampling(temperature=0.0, max_tokens=1, ignore_eos=True)


async def switch(plan: Plan, tell: Tell) -> Result:
    """Measure the call that switches, and the step that follows a switch, beside a step without one.

    A row's adapter is one number of a step, so that there is nothing to be rebound: `switch call` is what it takes to
    tell the engine's thread that answers shall go on with other weights, between two steps. `step` is a decode step of
    one row, as the engine itself measures it.
    """
    record = Record("switch", plan.name)
    async with engine_bed(replace(plan, adapters=max(2, plan.adapters)), tell) as bed:
        floor = await measure(plan.engine, bed.info.dtype, bed.info.device)
        one, other = bed.digests[:2]

        async def switched() -> float:
            await _step(bed, one)
            return await _step(bed, other)

        async def same() -> float:
            await _step(bed, other)
            return await _step(bed, other)

        after, alike = await in_turn(switched, same, plan.pairs, tell)
        calls = [await _call(bed, one, other) for _ in range(plan.pairs)]
        model = bed.describe(plan.kind)
    rows = [
        Pairs("switch call", "switch", "step", "s", tuple(calls), tuple(alike), "lower"),
        Pairs("step after a switch", "switched", "same", "s", tuple(after), tuple(alike), "lower"),
    ]
    return record.result(rows, floor=floor, workload={"switches": plan.pairs}, model=model, raw=report(rows))


def report(rows: list[Pairs]) -> dict[str, Any]:
    """Return median and p99, in milliseconds, of the call, of both steps, and of what a switch adds to a step."""
    call, step = rows
    added = [a - b for a, b in zip(step.a, step.b, strict=True)]
    found = {"switch_call": call.a, "step_after_a_switch": step.a, "step": step.b, "added": added}
    return {name: {"median": 1e3 * median(v), "p99": 1e3 * percentile(v, 99)} for name, v in found.items()}


async def _step(bed: Bed, digest: str) -> float:
    """Return the seconds of one step with one row on an adapter."""
    before = bed.engine.stats().step_seconds
    request = GenerateRequest("switch", (1,), _ONE, Mix.of(digest))
    async for event in bed.engine.generate(request):
        if isinstance(event, Finished):
            break
    return bed.engine.stats().step_seconds - before


async def _call(bed: Bed, one: str, other: str) -> float:
    began = time.perf_counter()
    await bed.engine.switch(one, other)
    return time.perf_counter() - began
