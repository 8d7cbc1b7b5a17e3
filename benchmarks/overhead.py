"""What share of a step the local engine spends outside its kernels: scheduler, sampling's bookkeeping, Python.

Steps are watched by torch's profiler: what its operations and our compiled kernels took is work, the rest of the step
is not. The profiler itself slows the rest down, so the figure is an upper bound.

    python benchmarks/overhead.py --model DECK --name overhead-64
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from torch.profiler import ProfilerActivity, profile

from loradex.adapters.read import read_adapter
from loradex.bench.bed import Plan
from loradex.bench.deck import adapter_folders
from loradex.bench.length import Length
from loradex.bench.pairs import Pairs
from loradex.bench.result import Record, Result
from loradex.bench.shape import adapter_class
from loradex.bench.table import markdown
from loradex.bench.workload import Workload
from loradex.core.mix import Mix
from loradex.core.sampling import Sampling
from loradex.engine.config import EngineConfig
from loradex.engine.local.engine import LocalEngine
from loradex.engine.local.loop import Loop, _Job
from loradex.engine.local.output import Output
from loradex.engine.local.scheduler import Scheduler
from loradex.engine.local.sequence import Sequence
from loradex.engine.local.team import Team

RUNS = Path(__file__).parent / "runs"
EACH = 3
"""Steps in one sample."""


class Kernels:
    """Sums up what the compiled kernels take, which torch's profiler does not see."""

    def __init__(self) -> None:
        self.seconds = 0.0
        for name in ("alone", "together", "quick"):
            setattr(Team, name, self._timed(getattr(Team, name)))

    def _timed(self, function: Callable[[Team, int], None]) -> Callable[[Team, int], None]:
        def timed(team: Team, job: int) -> None:
            began = time.perf_counter()
            function(team, job)
            self.seconds += time.perf_counter() - began

        return timed


def run(plan: Plan, workload: Workload) -> Result:
    """Measure one workload, on the engine's loop in this thread."""
    record = Record("overhead", plan.name)
    with tempfile.TemporaryDirectory() as spare:
        engine = LocalEngine(plan.settings(plan.adapters, Path(spare) / "packs"))
        runner, scheduler = engine._build(tell)
        loop = Loop(scheduler, runner, lambda messages: None)
        folders = adapter_folders(plan.model, plan.kind, plan.adapters, engine.info.linears, Path(spare), tell)
        adapters = [read_adapter(folder) for folder in folders]
        for adapter in adapters:
            runner.install(adapter.digest, engine._loader._load(adapter, engine._fit))
    for each in replace(workload, vocab_size=engine.info.vocab_size).make():
        mix = Mix.of(adapters[each.adapter].digest)
        sampling = Sampling(max_tokens=each.output, temperature=0.0, ignore_eos=True)
        answer = Sequence(str(each.index), list(each.tokens), len(each.tokens), sampling, mix)
        output = Output(engine._texts.base, answer, engine._eos, engine.info.max_model_len)
        loop._add(_Job(answer, output, time.monotonic()))
    row = Pairs("outside kernels", "outside", "step", "s", *_measure(loop, scheduler), "lower")
    model = {
        "id": engine.info.id,
        "dtype": engine.info.dtype,
        "adapter_class": plan.kind.name,
        "adapters": len(adapters),
    }
    return record.result([row], floor=None, workload=workload.describe(), model=model, raw={"steps_each": EACH})


def _measure(loop: Loop, scheduler: Scheduler) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return seconds outside the kernels and of the whole step, one for every few decode steps."""
    while scheduler.waiting or any(each.pending > 1 for each in scheduler.running):
        loop._step()
    kernels, outside, steps = Kernels(), [], []
    running = len(scheduler.running)
    while len(scheduler.running) == running:
        kernels.seconds, step = 0.0, 0.0
        with profile(activities=[ProfilerActivity.CPU]) as watched:
            for _ in range(EACH):
                began = time.perf_counter()
                loop._step()
                step += time.perf_counter() - began
        operations = sum(event.self_cpu_time_total for event in watched.key_averages()) / 1e6
        outside.append((step - operations - kernels.seconds) / EACH)
        steps.append(step / EACH)
    return tuple(outside[:-1]), tuple(steps[:-1])


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
    parser.add_argument("--out", type=Path, help="file of the result; benchmarks/runs/NAME.json when left out")
    given = parser.parse_args()
    kind = adapter_class(given.kind)
    plan = Plan("local", EngineConfig(), given.model, kind, given.batch, given.batch, 1, given.name)
    lengths = Length.parse(given.input), Length.parse(given.output)
    result = run(plan, Workload(given.batch, given.batch, "distinct", 1.0, *lengths))
    result.save(given.out or RUNS / f"{given.name}.json")
    print(markdown([result]))


if __name__ == "__main__":
    main()
