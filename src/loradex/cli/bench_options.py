"""The options of `loradex bench`, and what follows from them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from loradex.cli.command import Flag
from loradex.cli.target import Target
from loradex.errors import ConfigInvalid
from loradex.settings import Settings

if TYPE_CHECKING:
    from loradex.bench.bed import Plan
    from loradex.bench.workload import Workload
    from loradex.engine.config import EngineConfig

FLAGS = (
    Flag("engine.dtype", ("--dtype",), "auto, float32, bfloat16 or float16.", "TYPE", "Engine"),
    Flag("engine.device", ("--device",), "auto, cpu, cuda or cuda:N.", "DEVICE", "Engine"),
    Flag(
        "engine.quantization",
        ("--quantization",),
        "Round the base's weights: none, int8, int4 or fp8.",
        "METHOD",
        "Engine",
    ),
    Flag("engine.max_batched_tokens", ("--max-num-batched-tokens",), "Tokens computed in one step.", "N", "Engine"),
    Flag("engine.kv_cache_memory", ("--kv-cache-memory",), "Memory for keys and values.", "SIZE", "Engine"),
    Flag("engine.kv_cache_dtype", ("--kv-cache-dtype",), "Of keys and values: auto or fp8.", "TYPE", "Engine"),
    Flag("engine.threads", ("--threads",), "CPU threads.", "N", "Engine"),
    Flag("engine_name", ("--engine",), "Engine that runs the model.", "NAME", "Engine"),
)

Model = Annotated[
    Path | None,
    typer.Option(
        "--model",
        metavar="DIR",
        help="What `bench model` made, or a base model. [default: the demo]",
        show_default=False,
    ),
]
Class = Annotated[str, typer.Option("--class", metavar="CLASS", help="Adapters: a-small, a-ref or a-mix.")]
Adapters = Annotated[
    int | None,
    typer.Option(metavar="N", help="Different adapters. [default: what the popularity needs]", show_default=False),
]
Batch = Annotated[int, typer.Option(metavar="N", min=1, help="Requests at once.")]
Prompt = Annotated[str, typer.Option("--input", metavar="LENGTH", help="Prompt tokens: 128, 8-512 or lognormal:2048.")]
Answer = Annotated[str, typer.Option("--output", metavar="LENGTH", help="Answer tokens: 32, 8-512 or rest:2048.")]
Popularity = Annotated[
    str,
    typer.Option(metavar="NAME", help="distinct, uniform, skewed, identical (Punica), power, zipf (S-LoRA) or base."),
]
Alpha = Annotated[
    float, typer.Option(metavar="A", help="Of power (as S-LoRA's code draws: 1 is uniform) or zipf (its exponent).")
]
Count = Annotated[int, typer.Option("--pairs", metavar="N", min=1, help="Measurements of each side, in turn.")]
Seed = Annotated[int, typer.Option(metavar="N", help="Seed of the workload.")]
Name = Annotated[
    str | None, typer.Option(metavar="NAME", help="Name of the result. [default: from the options]", show_default=False)
]
File = Annotated[
    str | None,
    typer.Option(
        "--out",
        metavar="FILE",
        help="Where the JSON goes; - for nowhere. [default: benchmarks/runs/NAME.json in the repository]",
        show_default=False,
    ),
]
Versus = Annotated[
    str | None,
    typer.Option(metavar="KEY=VALUE", help="Side B: an engine with this setting, same requests.", show_default=False),
]
Url = Annotated[
    str | None,
    typer.Option(
        "--url", metavar="URL", help="Ask this OpenAI server, not an engine in this process.", show_default=False
    ),
]
Against = Annotated[
    str | None,
    typer.Option("--against-url", metavar="URL", help="With --url: a second server, side B.", show_default=False),
]

LEAST_PAIRS = 5


def make_plan(
    settings: Settings, model: Path | None, kind: str, adapters: int, batch: int, pairs: int, name: str
) -> Plan:
    """Return the plan that the options describe.

    Raises:
        ConfigInvalid: there is no such class of adapters, or no such folder.
    """
    from loradex.bench.bed import Plan
    from loradex.bench.shape import adapter_class

    chosen = settings.engine_name, settings.engine, model_folder(model), adapter_class(kind)
    return Plan(*chosen, adapters, batch, pairs, name)


def live_adapters(target: Target, sources: list[str] | None, model: Path | None, kind: str) -> list[str]:
    """Return the adapters for a server that runs: those named, or those of a deck's class, or the demo's.

    Raises:
        ConfigInvalid: there are less than two.
    """
    from loradex.cli.demo_assets import FOLDER

    folder = FOLDER / "adapters" if model is None else model / "adapters" / kind
    found = [target.place(each) for each in sources or ()] or [str(path) for path in sorted(folder.glob("*"))]
    if len(found) < 2:
        make = f"loradex bench model {model or 'DIR'} --class {kind} --adapters 4"
        raise ConfigInvalid("It takes two adapters or more", hint=f"Name them with `--source PATH`, or: {make}")
    return found


def model_folder(model: Path | None) -> Path:
    """Return the folder that was named, or the demo's.

    Raises:
        ConfigInvalid: there is none.
    """
    if model is not None and not model.is_dir():
        raise ConfigInvalid(f"There is no folder {model}", hint=f"Make it: loradex bench model {model}")
    return model or Path(__file__).parents[1] / "assets" / "demo"


def make_workload(
    requests: int, adapters: int, popularity: str, alpha: float, prompt: str, answer: str, seed: int
) -> Workload:
    """Return the workload that the options describe; all requests come at once.

    Raises:
        ConfigInvalid: a length or popularity is none.
    """
    from loradex.bench.length import Length
    from loradex.bench.workload import Workload

    lengths = Length.parse(prompt), Length.parse(answer)
    return Workload(requests, adapters, popularity, alpha, *lengths, seed=seed)


def count_adapters(popularity: str, requests: int, adapters: int | None) -> int:
    """Return how many adapters there are: as many as wanted, else as the popularity needs."""
    from loradex.bench.popularity import models_needed

    return adapters if adapters is not None else models_needed(popularity, requests, adapters)


def changed(settings: Settings, versus: str | None) -> EngineConfig | None:
    """Return the engine's settings with `KEY=VALUE` put in; None where nothing is to be changed.

    Raises:
        ConfigInvalid: there is no such setting, or it cannot have that value.
    """
    if versus is None:
        return None
    key, equals, value = versus.partition("=")
    key = key if key.startswith("engine.") else f"engine.{key}"
    if not equals:
        raise ConfigInvalid(f"{versus!r} is not KEY=VALUE", hint="Write it like `--versus dtype=float32`")
    given = Settings.read({key: value}).engine
    field = key.removeprefix("engine.")
    return replace(settings.engine, **{field: getattr(given, field)})


def where(out: str | None, name: str) -> Path | None:
    """Return the file of a result: the one named, or the usual one when we are in the repository; None for none."""
    if out == "-":
        return None
    if out is not None:
        return Path(out)
    usual = Path("benchmarks")
    return usual / "runs" / f"{name}.json" if usual.is_dir() and Path("pyproject.toml").is_file() else None
