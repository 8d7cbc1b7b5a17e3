"""Tokens a second: one side against another, all requests at once; end to end, prefill and decode apart."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from typing import Any

from loradex.bench.bed import Bed, Plan, engine_bed
from loradex.bench.cost import Cost
from loradex.bench.deck import Tell
from loradex.bench.floor import Floor, bandwidth_of, measure
from loradex.bench.machine import resident_bytes
from loradex.bench.pairs import Pairs, in_turn
from loradex.bench.play import Played, play
from loradex.bench.result import Record, Result
from loradex.bench.target import EngineTarget, Target
from loradex.bench.workload import Request, Workload
from loradex.engine.config import EngineConfig


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two that are compared; `cost` is None where it is not known, such as behind an address."""

    name: str
    target: Target
    requests: Sequence[Request]
    cost: Cost | None = None

    def timed(self, moments: Sequence[float]) -> Side:
        """Return the same side with requests that come at these seconds."""
        return replace(self, requests=[replace(r, at=at) for r, at in zip(self.requests, moments, strict=True)])


@dataclass(slots=True)
class Measured:
    """The runs of both sides, and the bandwidth that was measured before each run of A."""

    a: list[Played]
    b: list[Played]
    bandwidth: list[float] = field(default_factory=list)


async def compare(a: Side, b: Side, pairs: int, tell: Tell, bandwidth: Callable[[], float] | None = None) -> Measured:
    """Play both sides in turn."""
    seen: list[float] = []

    async def run_a() -> Played:
        if bandwidth is not None:
            seen.append(await asyncio.to_thread(bandwidth))
        return await play(a.target, a.requests)

    first, second = await in_turn(run_a, lambda: play(b.target, b.requests), pairs, tell)
    return Measured(first, second, seen[1:])  # the first was before the run that is not counted


def rows(a: Side, b: Side, found: Measured, floor: Floor | None) -> list[Pairs]:
    """Return the ratios: end to end, prefill, decode, and how much of the bandwidth A's decode used."""
    best = _best(a, floor)
    parts: tuple[tuple[str, Callable[[Played], float]], ...] = (
        ("end to end", lambda run: run.rate),
        ("prefill", lambda run: run.prefill_rate),
        ("decode", lambda run: run.decode_rate),
    )
    ratios = [
        Pairs(
            what,
            a.name,
            b.name,
            "tok/s",
            tuple(rate(run) for run in found.a),
            tuple(rate(run) for run in found.b),
            floor=best.get(what),
        )
        for what, rate in parts
    ]
    if a.cost is not None and found.bandwidth and all(run.late_steps for run in found.a):
        used = [a.cost.decode_bytes(a.requests, run.late_steps) / run.decode_seconds for run in found.a]
        ratios.append(Pairs("decode bandwidth", a.name, "memory", "B/s", tuple(used), tuple(found.bandwidth)))
    return ratios


def _best(side: Side, floor: Floor | None) -> dict[str, float]:
    """Return the most tokens a second that bytes and operations allow."""
    if side.cost is None or floor is None:
        return {}
    prefill = side.cost.prefill_seconds(side.requests, floor)
    decode = side.cost.decode_seconds(side.requests, floor)
    made = sum(each.output for each in side.requests)
    best = {"end to end": made / (prefill + decode), "prefill": sum(len(r.tokens) for r in side.requests) / prefill}
    return best | ({"decode": (made - len(side.requests)) / decode} if decode else {})


def memory(bed: Bed) -> Pairs:
    """Return the memory of this process against what weights, cache and adapters need."""
    stats = bed.engine.stats()
    weights = bed.cost.weights
    cache = stats.blocks_total * stats.block_size * bed.cost.cached
    adapters = sum(each.bytes for each in bed.engine.resident())
    needed = float(weights + cache + adapters)
    return Pairs("memory", "resident", "needed", "B", (float(resident_bytes()),), (needed,), "lower")


async def throughput(plan: Plan, workload: Workload, tell: Tell, versus: EngineConfig | None = None) -> Result:
    """Measure a workload in this process: against the same requests on the base, or on an engine set up otherwise.

    Args:
        plan: what it is measured on.
        workload: all requests come at once.
        tell: told how far it is.
        versus: settings of a second engine, which answers the same workload as side B.
    """
    record = Record("throughput", plan.name)
    async with AsyncExitStack() as stack:
        bed = await stack.enter_async_context(engine_bed(plan, tell))
        workload = replace(workload, vocab_size=bed.info.vocab_size, rate=0.0)
        a = Side(workload.popularity, EngineTarget(bed.engine, bed.digests), workload.make(), bed.cost)
        if versus is None:
            b = replace(a, name="base", requests=workload.base().make())
        else:
            other = await stack.enter_async_context(engine_bed(replace(plan, config=versus), tell))
            b = Side("versus", EngineTarget(other.engine, other.digests), a.requests, other.cost)
        floor = await measure(plan.engine, bed.info.dtype, bed.info.device)
        found = await compare(a, b, plan.pairs, tell, bandwidth_of(plan.engine, bed.info.device))
        ratios = rows(a, b, found, floor) + ([memory(bed)] if versus is None else [])
        model = bed.describe(plan.kind)
    raw: dict[str, Any] = {"a": [run.describe() for run in found.a], "b": [run.describe() for run in found.b]}
    return record.result(ratios, floor=floor, workload=workload.describe(), model=model, raw=raw)


async def throughput_of(
    a: Side, b: Side, plan: Plan, workload: Workload, tell: Tell, *, kind: str = "throughput"
) -> Result:
    """Measure two sides that run already, such as two servers."""
    record = Record(kind, plan.name)
    floor = await measure(plan.engine, "bfloat16")
    found = await compare(a, b, plan.pairs, tell)
    raw: dict[str, Any] = {"a": [run.describe() for run in found.a], "b": [run.describe() for run in found.b]}
    model = {"adapter_class": plan.kind.name, "adapters": plan.adapters}
    return record.result(rows(a, b, found, floor), floor=floor, workload=workload.describe(), model=model, raw=raw)
