"""What share of a step the local engine spends outside its kernels: scheduler, sampling's bookkeeping, Python.

Steps are watched by torch's profiler: what its operations and our compiled kernels took is work, the rest of the step
is not. The profiler itself slows the rest down, so the figure is an upper bound.

    python benchmarks/overhead.py --model DECK --name overhead-64
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch.profiler import ProfilerActivity, profile

from loradex.bench.bed import Plan, engine_bed
from loradex.bench.floor import measure
from loradex.bench.length import Length
from loradex.bench.pairs import Pairs
from loradex.bench.play import play
from loradex.bench.result import Record, Result
from loradex.bench.shape import adapter_class
from loradex.bench.table import markdown
from loradex.bench.target import EngineTarget
from loradex.bench.workload import Workload
from loradex.engine.config import EngineConfig
from loradex.engine.local.loop import Loop
from loradex.engine.local.team import Team

RUNS = Path(__file__).parent / "runs"
EACH = 3
"""Steps in one sample."""


class Watch:
    """Times the engine's decode steps from its own thread; every sample is a profile of a few steps."""

    def __init__(self, batch: int) -> None:
        self.batch = batch
        self.outside: list[float] = []
        self.steps: list[float] = []
        self._kernels = 0.0
        self._samples: list[float] = []
        self._profile: Any = None

    def __enter__(self) -> Watch:
        self._step, self._together, self._alone = Loop._step, Team.together, Team.alone
        watch = self
        Loop._step = lambda loop: watch._watched(loop)  # type: ignore[method-assign]
        Team.together = _timed(self._together, self)  # type: ignore[method-assign]
        Team.alone = _timed(self._alone, self)  # type: ignore[method-assign]
        return self

    def __exit__(self, *_: object) -> None:
        Loop._step, Team.together, Team.alone = self._step, self._together, self._alone  # type: ignore[method-assign]

    def add(self, seconds: float) -> None:
        """Count what a compiled kernel took."""
        self._kernels += seconds

    def _watched(self, loop: Loop) -> Any:
        scheduler = loop._scheduler
        steady = len(scheduler.running) == self.batch and all(each.pending == 1 for each in scheduler.running)
        if not steady:
            return self._step(loop)
        if self._profile is None:
            self._profile, self._samples, self._kernels = profile(activities=[ProfilerActivity.CPU]), [], 0.0
            self._profile.__enter__()
        began = time.perf_counter()
        said = self._step(loop)
        self._samples.append(time.perf_counter() - began)
        if len(self._samples) == EACH:
            self._close()
        return said

    def _close(self) -> None:
        self._profile.__exit__(None, None, None)
        operations = sum(event.self_cpu_time_total for event in self._profile.key_averages()) / 1e6
        step = sum(self._samples)
        self.outside.append((step - operations - self._kernels) / EACH)
        self.steps.append(step / EACH)
        self._profile = None


def _timed(function: Callable[[Team, int], None], watch: Watch) -> Callable[[Team, int], None]:
    def timed(team: Team, job: int) -> None:
        began = time.perf_counter()
        function(team, job)
        watch.add(time.perf_counter() - began)

    return timed


async def run(plan: Plan, workload: Workload) -> Result:
    """Measure one workload."""
    record = Record("overhead", plan.name)
    async with engine_bed(plan, tell) as bed:
        floor = await measure(plan.engine, bed.info.dtype, bed.info.device)
        with Watch(plan.batch) as watch:
            requests = replace(workload, vocab_size=bed.info.vocab_size).make()
            await play(EngineTarget(bed.engine, bed.digests), requests)
        model = bed.describe(plan.kind)
    row = Pairs("outside kernels", "outside", "step", "s", tuple(watch.outside), tuple(watch.steps), "lower")
    return record.result([row], floor=floor, workload=workload.describe(), model=model, raw={"steps_each": EACH})


def tell(stage: str, share: float) -> None:
    """Say how far it is."""
    print(f"\r{stage}: {share:4.0%} ", end="" if share < 1 else "\n", file=sys.stderr, flush=True)


def main() -> None:
    """Run, keep the result, and print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="what `loradex bench model` made")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--class", dest="kind", default="a-ref", help="class of the adapters, one for each request")
    parser.add_argument("--input", default="16", help="prompt tokens")
    parser.add_argument("--output", default="40", help="answer tokens")
    parser.add_argument("--name", default="overhead-64")
    given = parser.parse_args()
    kind = adapter_class(given.kind)
    plan = Plan("local", EngineConfig(), given.model, kind, given.batch, given.batch, 1, given.name)
    lengths = Length.parse(given.input), Length.parse(given.output)
    result = asyncio.run(run(plan, Workload(given.batch, given.batch, "distinct", 1.0, *lengths)))
    result.save(RUNS / f"{given.name}.json")
    print(markdown([result]))


if __name__ == "__main__":
    main()
