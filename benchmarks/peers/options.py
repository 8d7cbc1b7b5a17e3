"""What both peers can be told, and how their results are shown and kept."""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

from loradex.bench.bed import Plan
from loradex.bench.length import Length
from loradex.bench.popularity import NAMES, models_needed
from loradex.bench.result import Result
from loradex.bench.shape import adapter_class
from loradex.bench.table import markdown
from loradex.bench.workload import Workload
from loradex.engine.config import EngineConfig

RUNS = Path(__file__).parents[1] / "runs"


@dataclass(frozen=True)
class Options:
    """A plan, a workload, the dtype in which the peer computes, and where the result goes."""

    plan: Plan
    workload: Workload
    dtype: str
    out: Path


def parser(description: str | None) -> argparse.ArgumentParser:
    """Return the parser with what every peer takes."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--model", type=Path, required=True, help="what `loradex bench model` made")
    made.add_argument("--class", dest="kind", default="a-ref", help="class of the adapters")
    made.add_argument("--batch", type=int, default=16, help="requests at once")
    made.add_argument("--popularity", default="distinct", choices=NAMES)
    made.add_argument("--input", default="128", help="prompt tokens")
    made.add_argument("--output", default="32", help="answer tokens")
    made.add_argument("--pairs", type=int, default=5, help="measurements of each side, in turn")
    made.add_argument(
        "--peer-dtype",
        default="bfloat16",
        choices=("bfloat16", "float32"),
        help="in which the peer computes: float32 is its better one on processors without bfloat16",
    )
    made.add_argument("--name", help="of the result")
    made.add_argument("--out", type=Path, help="file of the result; benchmarks/runs/NAME.json when left out")
    return made


def read(given: argparse.Namespace, peer: str) -> Options:
    """Turn what was given into a plan and a workload."""
    adapters = models_needed(given.popularity, given.batch, None)
    kind = adapter_class(given.kind)
    name = given.name or f"{peer}-{given.popularity}-b{given.batch}"
    plan = Plan("local", EngineConfig(), given.model, kind, adapters, given.batch, given.pairs, name)
    lengths = Length.parse(given.input), Length.parse(given.output)
    workload = Workload(given.batch, adapters, given.popularity, 1.0, *lengths)
    return Options(plan, workload, given.peer_dtype, given.out or RUNS / f"{name}.json")


def tell(stage: str, share: float) -> None:
    """Say how far it is."""
    print(f"\r{stage}: {share:4.0%} ", end="" if share < 1 else "\n", file=sys.stderr, flush=True)


def hand_out(result: Result, path: Path) -> None:
    """Keep a result and print it."""
    result.save(path)
    print(markdown([result]))
    print(f"wrote {path}", file=sys.stderr)
