"""`loradex bench serve`, and datasets on `loradex bench throughput`: one load, measured once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from loradex.cli import bench_options as given
from loradex.cli.command import TARGET, command
from loradex.cli.output import Output, grid
from loradex.errors import ConfigInvalid
from loradex.settings import Settings

if TYPE_CHECKING:
    from loradex.bench.dataset import Dataset
    from loradex.bench.deck import Tell
    from loradex.bench.serving import Measured

_TIMES = {"ttft": "time to first token", "tpot": "time per further token", "itl": "between pieces", "e2el": "whole"}

Rows = Annotated[
    Path | None,
    typer.Option("--dataset", metavar="FILE", help="TensorRT-LLM's JSON lines, not random prompts."),
]
Requests = Annotated[
    int | None,
    typer.Option("--num-requests", "--num-prompts", metavar="N", min=1, help="How many requests.", show_default=False),
]
Concurrency = Annotated[
    int,
    typer.Option("--concurrency", "--max-concurrency", metavar="N", help="Requests at once at most; 0 for no limit."),
]
Report = Annotated[
    Path | None, typer.Option("--out", metavar="FILE", help="Also write the JSON there.", show_default=False)
]


def register(app: typer.Typer) -> None:
    """Add the command to those of `loradex bench`."""
    examples = (
        "loradex bench serve --url http://127.0.0.1:8000 --num-requests 100 --request-rate 8",
        "loradex bench serve --lora-modules medical legal --lora-assignment zipf --concurrency 16",
        "loradex bench serve --dataset requests.jsonl --json",
    )
    command(app, "serve", flags=TARGET, examples=examples)(serve)


def serve(
    out: Output,
    settings: Settings,
    model: Annotated[
        str, typer.Option(metavar="NAME", help="The base, as the server calls it. [default: its first]")
    ] = "",
    modules: Annotated[
        list[str] | None,
        typer.Option("--lora-modules", metavar="NAME", help="Adapter to ask for. Repeat it. [default: the base alone]"),
    ] = None,
    assignment: Annotated[
        str, typer.Option("--lora-assignment", metavar="HOW", help="random, round-robin or zipf, or one of throughput.")
    ] = "random",
    alpha: given.Alpha = 1.0,
    dataset: Rows = None,
    requests: Requests = None,
    rate: Annotated[
        str, typer.Option("--request-rate", metavar="R", help="Requests a second; inf for all at once.")
    ] = "inf",
    burstiness: Annotated[
        float, typer.Option(metavar="B", help="Of their gaps; 1 is Poisson, less comes in bursts.")
    ] = 1,
    concurrency: Concurrency = 0,
    prompt: Annotated[
        str, typer.Option("--input", "--random-input-len", metavar="LENGTH", help="Prompt tokens: 128 or 8-512.")
    ] = "128",
    answer: Annotated[
        str, typer.Option("--output", "--random-output-len", metavar="LENGTH", help="Answer tokens: 32 or 8-512.")
    ] = "32",
    vocabulary: Annotated[
        int, typer.Option("--vocab-size", metavar="N", help="Prompts hold token ids below it.")
    ] = 257,
    seed: given.Seed = 42,
    file: Report = None,
) -> None:
    """Put a load on any OpenAI server, and measure it once.

    Throughput, and mean, median and p99 of the time to the first token (TTFT), per further token (TPOT), between pieces
    (ITL) and to the end (E2EL). Options and JSON are named as those of vllm bench serve. For a ratio of two sides, with
    its spread, take bench throughput --url and --against-url.
    """
    from loradex.bench.dataset import read_dataset
    from loradex.bench.online import Load, serve_online

    names = tuple(each for word in modules or () for each in word.split(",") if each)
    per_second = _rate(rate)
    if burstiness <= 0:
        raise ConfigInvalid(f"--burstiness is {burstiness}", hint="Give a number above 0; 1 is a Poisson process")
    rows = read_dataset(dataset, requests or 0) if dataset is not None else None
    workload = given.make_workload(
        requests or 100, len(names), assignment if names else "base", alpha, prompt, answer, seed
    )
    workload = replace(workload, rate=per_second, cv=burstiness**-0.5, vocab_size=vocabulary)
    load = Load(workload, names, model, rows, concurrency)
    url = settings.url or "http://127.0.0.1:8000"
    _run(out, lambda tell: serve_online(url, settings.api_key, load, tell), file)


def of_dataset(
    out: Output,
    settings: Settings,
    model: Path | None,
    path: Path,
    requests: int | None,
    concurrency: int,
    file: str | None,
) -> None:
    """Measure a dataset on a model in this process, once."""
    from loradex.bench.dataset import read_dataset
    from loradex.bench.deck import base_folder
    from loradex.bench.offline import throughput_of_dataset

    rows: Dataset = read_dataset(path, requests or 0)
    if requests is not None and len(rows.requests) < requests:
        out.say(f"{path} has {len(rows.requests)} requests; {requests} were asked for", style="yellow")
    engine = replace(settings.engine, model=str(base_folder(given.model_folder(model))))
    target = Path(file) if file not in (None, "-") else None
    settings = replace(settings, engine=engine)
    _run(out, lambda tell: throughput_of_dataset(settings, rows, max(0, concurrency), tell), target)


def _run(out: Output, work: Callable[[Tell], Coroutine[Any, Any, Measured]], file: Path | None) -> None:
    with out.progress() as progress:
        found = asyncio.run(work(progress)).describe()
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    times = [
        (name.upper(), *(f"{found[f'{share}_{name}_ms']:.2f}" for share in ("mean", "median", "p99")), what)
        for name, what in _TIMES.items()
    ]
    facts = [
        ("requests", f"{found['completed']} in {found['duration']:.2f} s ({found['request_throughput']:.2f} a second)"),
        ("output", f"{found['total_output_tokens']} tokens ({found['output_throughput']:.1f} a second)"),
        ("adapters", ", ".join(f"{name} {count}" for name, count in found["adapters"].items())),
    ]
    quiet = [f"{name}\t{value}" for name, value in found.items() if isinstance(value, int | float)]
    out.data(found, [grid(("", ""), facts), grid(("ms", "mean", "median", "p99", ""), times)], quiet=quiet)
    if file is not None:
        out.say(f"wrote {file}", style="dim")


def _rate(text: str) -> float:
    """Return requests a second; 0 where all are to come at once."""
    try:
        rate = float(text)
    except ValueError:
        rate = -1.0
    if not rate > 0:
        raise ConfigInvalid(f"--request-rate is {text!r}", hint="Give a number above 0, or inf for all at once")
    return 0.0 if rate == float("inf") else rate
