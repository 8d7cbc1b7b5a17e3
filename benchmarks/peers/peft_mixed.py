"""PEFT's mixed batch beside us: `generate(adapter_names=[...])` in a process of its own, asked in turn with our engine.

    python benchmarks/peers/peft_mixed.py --model DECK

Run it with the Python that has Loradex. PEFT gets an environment of its own, made by the first run, with the same torch
and transformers as ours.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import environment
import options

from loradex.bench.bed import Bed, engine_bed
from loradex.bench.deck import base_folder
from loradex.bench.floor import measure
from loradex.bench.pairs import in_turn
from loradex.bench.play import Played, Timeline, play
from loradex.bench.result import Record, Result
from loradex.bench.target import EngineTarget
from loradex.bench.throughput import Measured, Side, rows
from loradex.bench.workload import Request

PEFT = "0.21.2"
WORKER = Path(__file__).with_name("peft_worker.py")


def fill(python: Path) -> None:
    """Install PEFT on the versions that we run on ourselves."""
    same = [f"{name}=={version(name).partition('+')[0]}" for name in ("torch", "transformers")]
    environment.install(python, *same, f"peft=={PEFT}")


class Worker:
    """The process that holds PEFT's model; it sleeps while we are measured."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def ask(self, question: dict[str, Any]) -> dict[str, Any]:
        """Send a question and wait for the answer.

        Raises:
            RuntimeError: the process ended.
        """
        if self._process.stdin is None or self._process.stdout is None:
            raise RuntimeError("the worker has no pipes")
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the worker of PEFT ended; what it said stands above")
        answer: dict[str, Any] = json.loads(line)
        return answer

    async def play(self, requests: Sequence[Request]) -> Played:
        """Answer all requests in one batch."""
        question = {
            "prompts": [each.tokens for each in requests],
            "adapters": [each.adapter for each in requests],
            "output": max(each.output for each in requests),
        }
        began = time.perf_counter()
        answer = await asyncio.to_thread(self.ask, question)
        ended = time.perf_counter()
        times = [began + seconds for seconds in answer["seconds"]]
        lines = [Timeline(each, began, times[: each.output], [1] * each.output) for each in requests]
        return Played(tuple(lines), began, ended)


@contextmanager
def worker(python: Path, base: Path, adapters: Sequence[Path], dtype: str) -> Iterator[Worker]:
    """Run the worker while the body runs."""
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump({"base": str(base), "adapters": [str(path) for path in adapters], "dtype": dtype}, file)
        file.flush()
        command = [str(python), str(WORKER), file.name]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            try:
                made = Worker(process)
                made.ask({})  # answers when everything is loaded
                yield made
            finally:
                if process.stdin is not None:
                    process.stdin.close()
                process.wait(30)


async def run(given: options.Options, python: Path) -> Result:
    """Measure our engine, in this process, against the worker."""
    record = Record("peer", given.plan.name)
    async with engine_bed(given.plan, options.tell) as bed:
        workload = replace(given.workload, vocab_size=bed.info.vocab_size)
        paths = [adapter.path for adapter in bed.adapters]
        with worker(python, base_folder(given.plan.model), paths, given.dtype) as peft:
            found = await _compare(bed, peft, workload.make(), given.plan.pairs)
        floor = await measure(given.plan.engine, bed.info.dtype, bed.info.device)
        a = Side(f"loradex {version('loradex')}", EngineTarget(bed.engine, bed.digests), workload.make(), bed.cost)
        ratios = rows(a, replace(a, name=f"peft {PEFT} in {given.dtype}"), found, floor)
        model = bed.describe(given.plan.kind)
    raw = {"a": [run.describe() for run in found.a], "b": [run.describe() for run in found.b]}
    return record.result(ratios, floor=floor, workload=workload.describe(), model=model, raw=raw)


async def _compare(bed: Bed, peft: Worker, requests: Sequence[Request], pairs: int) -> Measured:
    target = EngineTarget(bed.engine, bed.digests)
    return Measured(*await in_turn(lambda: play(target, requests), lambda: peft.play(requests), pairs, options.tell))


def main() -> None:
    """Make the environment, run, and print."""
    parser = options.parser(__doc__)
    parser.add_argument("--python", type=Path, help="Python of an environment that has peft already")
    arguments = parser.parse_args()
    given = options.read(arguments, "peft")
    python = arguments.python or environment.environment(f"peft-{PEFT}", fill)
    options.hand_out(asyncio.run(run(given, python)), given.out)


if __name__ == "__main__":
    main()
