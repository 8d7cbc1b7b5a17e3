"""`loradex bench start` and `bench switch`: what an engine itself takes, beside answering."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from loradex.cli import bench_options as given
from loradex.cli.bench_options import FLAGS, make_plan
from loradex.cli.bench_output import hand_out
from loradex.cli.command import command
from loradex.cli.output import Output
from loradex.settings import Settings

if TYPE_CHECKING:
    from loradex.bench.result import Result

Often = Annotated[int, typer.Option("--pairs", metavar="N", min=1, help="Steps of each side, in turn.")]


def register(app: typer.Typer) -> None:
    """Add the commands to those of `loradex bench`."""
    starts = ("loradex bench start --model ./qwen --quantization int8", "loradex bench start --pairs 5")
    switches = ("loradex bench switch --model ./qwen --class a-ref", "loradex bench switch --pairs 500 --json")
    command(app, "start", flags=FLAGS, examples=starts)(start)
    command(app, "switch", flags=FLAGS, examples=switches)(switch)


def start(
    out: Output,
    settings: Settings,
    model: given.Model = None,
    pairs: given.Count = 5,
    name: given.Name = None,
    file: given.File = None,
) -> None:
    """Starts from an engine directory against starts from the checkpoint.

    The directory is built first, and thrown away in the end.
    """
    from loradex.bench.start import start as run

    plan = make_plan(settings, model, "a-ref", 0, 1, pairs, name or f"start-{settings.engine.quantization}")
    with out.progress() as progress:
        result = asyncio.run(run(plan, progress))
    hand_out(out, result, given.where(file, result.name))


def switch(
    out: Output,
    settings: Settings,
    model: given.Model = None,
    kind: given.Class = "a-ref",
    pairs: Often = 200,
    name: given.Name = None,
    file: given.File = None,
) -> None:
    """What a switch between resident adapters costs, as median and p99, beside a step."""
    from loradex.bench.switch import switch as run

    plan = make_plan(settings, model, kind, 2, 1, pairs, name or f"switch-{kind}")
    with out.progress() as progress:
        result: Result = asyncio.run(run(plan, progress))
    hand_out(out, result, given.where(file, result.name))
    for what, found in result.raw.items():
        out.say(f"{what.replace('_', ' ')}: {found['median']:.3f} ms in the median, p99 {found['p99']:.3f} ms")
