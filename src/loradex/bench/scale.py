"""Does the number of adapters matter: many registered against one, and the assignment reshuffled against fixed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import numpy as np

from loradex.bench.bed import Bed, Plan, engine_bed, service_bed
from loradex.bench.deck import Tell
from loradex.bench.floor import Floor, measure
from loradex.bench.pairs import Pairs, in_turn
from loradex.bench.play import Played, play
from loradex.bench.result import Record, Result
from loradex.bench.target import EngineTarget, ServiceTarget
from loradex.bench.workload import Request, Workload, reassigned

WAVES = 20
"""Waves of requests in one measurement of the step time; each wave is two steps."""


async def scale(plan: Plan, workload: Workload, slots: int, tell: Tell) -> Result:
    """Measure many adapters registered against one, through the service, then fixed against reshuffled assignment.

    Args:
        plan: `adapters` are registered; `batch` requests are under way at once.
        workload: on all of them; side B asks the first adapter for everything.
        slots: adapters that are resident at a time.
        tell: told how far it is.
    """
    record = Record("scale", plan.name)
    async with service_bed(plan, tell, slots=slots, register=plan.adapters) as bed:
        workload = replace(workload, vocab_size=bed.bed.info.vocab_size, rate=0.0)
        target = ServiceTarget(bed.service, bed.names)
        many = workload.make()
        one = reassigned(many, [0] * len(many))
        floor = await measure(plan.engine, bed.bed.info.dtype, bed.bed.info.device)
        a, b = await in_turn(
            lambda: play(target, many, plan.batch), lambda: play(target, one, plan.batch), plan.pairs, tell
        )
        rate = _rates(a), _rates(b)
        rows = [Pairs("many adapters", f"{plan.adapters} hit", "1 hit", "tok/s", *rate)]
        evictions = bed.service.residency.evictions
        model = bed.bed.describe(plan.kind)
    raw: dict[str, Any] = {
        "evictions": evictions,
        "a": [run.describe() for run in a],
        "b": [run.describe() for run in b],
    }
    resident = replace(plan, adapters=min(plan.adapters, plan.batch))
    async with engine_bed(resident, tell) as inner:
        rows.append(await reshuffled(inner, resident, tell, floor))
    described = workload.describe() | {"slots": slots, "batch": plan.batch}
    return record.result(rows, floor=floor, workload=described, model=model, raw=raw)


def _rates(runs: list[Played]) -> tuple[float, ...]:
    return tuple(run.rate for run in runs)


async def reshuffled(bed: Bed, plan: Plan, tell: Tell, floor: Floor | None = None) -> Pairs:
    """Return the time of a step with every row on another adapter than before, against always the same.

    A wave is `batch` requests of one prompt token and two answer tokens: two steps, after which they are dealt anew.
    """
    target = EngineTarget(bed.engine, bed.digests)
    top = bed.info.vocab_size - 1
    fixed = [Request(i, i % plan.adapters, (10 + i % (top - 10),), 2) for i in range(plan.batch)]
    random = np.random.default_rng(42)

    def side(shuffle: bool) -> Callable[[], Awaitable[float]]:
        async def waves() -> float:
            before, spent = bed.engine.stats(), 0.0
            for _ in range(WAVES):
                order = random.permutation(plan.batch) if shuffle else range(plan.batch)
                spent += (await play(target, reassigned(fixed, [fixed[int(i)].adapter for i in order]))).seconds
            after = bed.engine.stats()
            steps = max(1, after.steps - before.steps)
            # An engine that does not count its own seconds is timed from outside.
            return ((after.step_seconds - before.step_seconds) or spent) / steps

        return waves

    a, b = await in_turn(side(True), side(False), plan.pairs, tell)
    deck = [each.adapter for each in fixed]
    least = bed.cost.step_bytes(deck, 2 * plan.batch) / floor.bandwidth if floor else None
    return Pairs("step time", "reshuffled", "fixed", "s", tuple(a), tuple(b), "lower", least)
