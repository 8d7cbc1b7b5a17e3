"""`loradex bench`: throughput, latency, swap, scale, report, model."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from loradex.cli import bench_options as given
from loradex.cli import bench_serve
from loradex.cli.bench_options import FLAGS, changed, count_adapters, make_plan, make_workload
from loradex.cli.bench_output import hand_out
from loradex.cli.command import command
from loradex.cli.output import Output, human_size
from loradex.cli.target import Target
from loradex.errors import ConfigInvalid
from loradex.settings import Settings

if TYPE_CHECKING:
    from loradex.bench.deck import Tell
    from loradex.bench.result import Result

app = typer.Typer(
    name="bench",
    help="Measure: two sides in turn, beside the physical floor.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


bench_serve.register(app)


def _run(out: Output, file: str | None, pairs: int, work: Callable[[Tell], Coroutine[Any, Any, Result]]) -> None:
    if pairs < given.LEAST_PAIRS:
        out.say(f"{pairs} pairs say too little about their spread; {given.LEAST_PAIRS} or more do", style="yellow")
    with out.progress() as progress:
        result = asyncio.run(work(progress))
    hand_out(out, result, given.where(file, result.name))


@command(
    app,
    "throughput",
    flags=FLAGS,
    examples=(
        "loradex bench throughput --batch 4 --pairs 5",
        "loradex bench throughput --model ./qwen --class a-ref --batch 16 --popularity skewed",
        "loradex bench throughput --model ./qwen --batch 1 --versus dtype=float32",
        "loradex bench throughput --url http://127.0.0.1:8000 --against-url http://127.0.0.1:8001",
        "loradex bench throughput --model ./qwen --dataset requests.jsonl --num-requests 64 --concurrency 16",
    ),
)
def throughput(
    out: Output,
    settings: Settings,
    model: given.Model = None,
    kind: given.Class = "a-ref",
    adapters: given.Adapters = None,
    batch: given.Batch = 16,
    prompt: given.Prompt = "128",
    answer: given.Answer = "32",
    popularity: given.Popularity = "distinct",
    alpha: given.Alpha = 1.0,
    pairs: given.Count = 7,
    seed: given.Seed = 42,
    versus: given.Versus = None,
    url: given.Url = None,
    against: given.Against = None,
    dataset: bench_serve.Rows = None,
    requests: bench_serve.Requests = None,
    concurrency: bench_serve.Concurrency = 0,
    name: given.Name = None,
    file: given.File = None,
) -> None:
    """Tokens a second of mixed adapters against the base.

    All requests come at once. End to end, prefill and decode are told apart; tokens of the prompt do not count as
    output. With `--versus` or `--against-url` side B answers the same requests elsewhere. With `--dataset` those
    requests are answered once, as trtllm-bench does.
    """
    from loradex.bench.servers import two_sides
    from loradex.bench.throughput import throughput, throughput_of

    if url if dataset is not None else requests or concurrency:
        hint = "loradex bench serve measures a dataset, or a number of requests, on a server"
        raise ConfigInvalid("--num-requests and --concurrency belong to --dataset, which excludes --url", hint=hint)
    if dataset is not None:
        bench_serve.of_dataset(out, settings, model, dataset, requests, concurrency, file)
        return
    decks = count_adapters(popularity, batch, adapters)
    title = f"throughput-{kind}-b{batch}-{popularity}" + ("-versus" if versus else "-servers" if url else "")
    plan = make_plan(settings, model, kind, decks, batch, pairs, name or title)
    workload = make_workload(batch, decks, popularity, alpha, prompt, answer, seed)

    async def work(tell: Tell) -> Result:
        if url is None:
            return await throughput(plan, workload, tell, changed(settings, versus))
        async with two_sides(url, against, workload, settings.api_key) as (a, b):
            return await throughput_of(a, b, plan, workload, tell)

    _run(out, file, pairs, work)


@command(
    app,
    "latency",
    flags=FLAGS,
    examples=(
        "loradex bench latency --model ./qwen --class a-ref --batch 16 --adapters 64 --popularity zipf --load 0.8",
        "loradex bench latency --url http://127.0.0.1:8000 --rate 4 --requests 100",
    ),
)
def latency(
    out: Output,
    settings: Settings,
    model: given.Model = None,
    kind: given.Class = "a-ref",
    adapters: given.Adapters = None,
    batch: given.Batch = 16,
    requests: Annotated[int, typer.Option(metavar="N", min=1, help="Requests in one measurement.")] = 64,
    rate: Annotated[float, typer.Option(metavar="R", help="Requests a second; 0 takes --load.")] = 0.0,
    load: Annotated[float, typer.Option(metavar="SHARE", help="Share of the capacity, measured first.")] = 0.5,
    cv: Annotated[float, typer.Option(metavar="CV", help="Burstiness of the Gamma arrivals; 1 is Poisson.")] = 1.0,
    prompt: given.Prompt = "8-128",
    answer: given.Answer = "8-128",
    popularity: given.Popularity = "power",
    alpha: given.Alpha = 1.0,
    pairs: given.Count = 5,
    seed: given.Seed = 42,
    url: given.Url = None,
    against: given.Against = None,
    name: given.Name = None,
    file: given.File = None,
) -> None:
    """TTFT and ITL when requests come one by one.

    p50, p95 and p99 of mixed adapters against the same requests, at the same moments, on the base.
    """
    from loradex.bench.latency import latency, latency_of
    from loradex.bench.servers import two_sides

    if min(rate + load, cv) <= 0:
        raise ConfigInvalid("--rate or --load, and --cv, must be above 0", hint="Leave them out for what is usual")
    decks = count_adapters(popularity, requests, adapters)
    plan = make_plan(settings, model, kind, decks, batch, pairs, name or f"latency-{kind}-{popularity}")
    workload = make_workload(requests, decks, popularity, alpha, prompt, answer, seed)
    workload = replace(workload, rate=rate, cv=cv)

    async def work(tell: Tell) -> Result:
        if url is None:
            return await latency(plan, workload, load, tell)
        async with two_sides(url, against, workload, settings.api_key) as (a, b):
            return await latency_of(a, b, plan, workload, load, tell)

    _run(out, file, pairs, work)


@command(
    app,
    "swap",
    flags=FLAGS,
    examples=(
        "loradex bench swap --model ./qwen --class a-ref --batch 8 --output 256 --every 100",
        "loradex bench swap --engine fake --pairs 5",
        "loradex bench swap --url http://127.0.0.1:8000",
    ),
)
def swap(
    out: Output,
    settings: Settings,
    model: given.Model = None,
    kind: given.Class = "a-ref",
    adapters: given.Adapters = None,
    batch: given.Batch = 8,
    every: Annotated[
        float, typer.Option(metavar="MS", help="Milliseconds from one load or replace to the next.")
    ] = 100,
    prompt: given.Prompt = "16",
    answer: given.Answer = "128",
    pairs: given.Count = 5,
    seed: given.Seed = 42,
    url: given.Url = None,
    against: given.Against = None,
    sources: Annotated[
        list[str] | None,
        typer.Option(
            "--source", metavar="PATH", help="With --url: adapter to load, as the server finds it. Repeat it."
        ),
    ] = None,
    name: given.Name = None,
    file: given.File = None,
) -> None:
    """What loads, switches and replaces cost.

    Loads from disk and from the page cache; the first token on an adapter that has to be loaded, against a resident
    one; and the p99 gap of streams that go on while others are loaded, or one is replaced, against none of that.

    With --url, on a server that runs, ours or vLLM's: load, replace and unload as a client sees them, the first token
    after a load, and the gap while an adapter is replaced. It takes the adapters of --source, or those of --model.
    """
    from loradex.bench.swap import swap
    from loradex.bench.swap_live import swap_live

    if url is not None:
        workload = make_workload(batch, 1, "identical", 1.0, prompt, answer, seed)
        addresses = [each for each in (url, against) if each is not None]
        servers = [(each, Target(replace(settings, url=each), out).served()) for each in addresses]
        places = given.live_adapters(Target(replace(settings, url=url), out), sources, model, kind)
        title = name or f"swap-live-b{batch}"
        options = (title, workload, every / 1e3, pairs, servers, places, settings.api_key)
        return _run(out, file, pairs, lambda tell: swap_live(*options, tell))
    plan = make_plan(settings, model, kind, adapters or 0, batch, pairs, name or f"swap-{kind}-b{batch}")
    workload = make_workload(batch, batch, "distinct", 1.0, prompt, answer, seed)
    _run(out, file, pairs, lambda tell: swap(plan, workload, every / 1e3, tell))


@command(
    app,
    "scale",
    flags=FLAGS,
    examples=(
        "loradex bench scale --model ./qwen --class a-small --adapters 2000 --slots 64 --batch 64 --requests 512",
        "loradex bench scale --engine fake --adapters 20 --pairs 5",
    ),
)
def scale(
    out: Output,
    settings: Settings,
    model: given.Model = None,
    kind: given.Class = "a-small",
    adapters: given.Adapters = 64,
    batch: given.Batch = 16,
    slots: Annotated[int, typer.Option(metavar="N", min=2, help="Adapters in memory at a time.")] = 32,
    requests: Annotated[int, typer.Option(metavar="N", min=1, help="Requests in one measurement.")] = 64,
    prompt: given.Prompt = "32",
    answer: given.Answer = "16",
    popularity: given.Popularity = "power",
    alpha: given.Alpha = 1.0,
    pairs: given.Count = 5,
    seed: given.Seed = 42,
    name: given.Name = None,
    file: given.File = None,
) -> None:
    """Whether the number of adapters matters.

    Throughput with many registered and hit (uniformly, as power with alpha 1 draws) against everything on one; and the
    time of a step when adapters are dealt anew in every wave of requests, against always alike.
    """
    from loradex.bench.scale import scale

    decks = adapters or 1
    plan = make_plan(settings, model, kind, decks, batch, pairs, name or f"scale-{kind}-{decks}")
    workload = make_workload(requests, decks, popularity, alpha, prompt, answer, seed)
    _run(out, file, pairs, lambda tell: scale(plan, workload, slots, tell))


@command(
    app,
    "report",
    examples=(
        "loradex bench report",
        "loradex bench report benchmarks/runs/throughput-a-ref-b16-distinct.json --no-plots",
        "loradex bench report benchmarks/runs --out benchmarks/report",
    ),
)
def report(
    out: Output,
    files: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[FILE]...", help="Results, or folders of them. [default: benchmarks/runs]"),
    ] = None,
    bars: Annotated[
        Path | None, typer.Option(metavar="FILE", help="What is to be reached. [default: benchmarks/bars.json]")
    ] = None,
    folder: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Write report.md and the drawings there.")
    ] = None,
    plots: Annotated[bool, typer.Option(help="Draw, which needs the extra `bench`.")] = True,
) -> None:
    """A table, and drawings, from results."""
    from loradex.bench.report import report

    usual = Path("benchmarks") / "bars.json"
    made = report(
        files or [Path("benchmarks") / "runs"], bars or (usual if usual.is_file() else None), folder, plots=plots
    )
    names = [str(path) for path in made.files]
    if out.mode == "human":
        out.raw(made.text)
    else:
        out.data({"markdown": made.text, "files": names}, quiet=names)
    for each in names:
        out.say(f"wrote {each}", style="dim")


@command(
    app,
    "model",
    examples=(
        "loradex bench model ./qwen --class a-ref --adapters 16",
        "loradex bench model ./qwen --class a-small --adapters 2000",
    ),
)
def model(
    out: Output,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where base and adapters go.", show_default=False)],
    kind: given.Class = "a-ref",
    adapters: Annotated[int, typer.Option(metavar="N", min=0, help="How many adapters.")] = 16,
    shape: Annotated[str, typer.Option(metavar="SHAPE", help="qwen2.5-0.5b or tiny.")] = "qwen2.5-0.5b",
) -> None:
    """Make a model and adapters of random weights to measure on.

    The shape is exact and the weights are bf16; speed does not depend on what they say. What lies there is kept.
    """
    from loradex.bench.deck import save_adapters, save_base
    from loradex.bench.shape import adapter_class, model_shape

    sizes, chosen = model_shape(shape), adapter_class(kind)
    with out.progress() as progress:
        progress("base", 0.0)
        base = folder / "base"
        if not (base / "config.json").is_file():
            save_base(base, sizes)
        made = save_adapters(folder, sizes, chosen, adapters, progress)
    weights = [file.stat().st_size for each in (base, *made) for file in each.glob("*.safetensors")]
    value = {"base": str(base), "adapters": [str(path) for path in made], "bytes": weights}
    out.data(value, f"{shape} and {len(made)} adapters of {kind}: {human_size(sum(weights))}", quiet=[str(folder)])
    out.next(f"loradex bench throughput --model {folder} --class {kind}")
