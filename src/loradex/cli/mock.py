"""`loradex adapter mock`: an adapter of random weights."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Annotated, Literal

import typer

from loradex.cli.adapter import Name
from loradex.cli.command import command
from loradex.cli.output import Output, grid, human_count, human_size
from loradex.core.adapter import check_name

EXAMPLES = (
    "loradex adapter mock medical --model ./qwen --rank 64",
    "loradex adapter mock legal --model ./qwen --rank 8 --modules q_proj --modules v_proj --format edge",
)


def register(app: typer.Typer) -> None:
    """Add the command to those of `loradex adapter`."""
    command(app, "mock", examples=EXAMPLES)(mock)


def mock(
    out: Output,
    name: Name,
    model: Annotated[
        Path, typer.Option("--model", metavar="DIR", help="Base model, export or engine.", show_default=False)
    ],
    rank: Annotated[int, typer.Option("--rank", metavar="R", min=1, help="Of every pair.")] = 64,
    alpha: Annotated[
        float | None, typer.Option("--alpha", metavar="A", help="Scaling times rank. [default: the rank]")
    ] = None,
    modules: Annotated[
        list[str] | None, typer.Option("--modules", metavar="NAME", help="Linears to adapt. Repeat it. [default: all]")
    ] = None,
    form: Annotated[Literal["peft", "edge"], typer.Option("--format", help="What is written.")] = "peft",
    folder: Annotated[Path, typer.Option("--output-dir", metavar="DIR", help="The adapter goes to DIR/NAME.")] = Path(
        "adapters"
    ),
    scale: Annotated[float, typer.Option("--scale", metavar="S", help="Standard deviation of the weights.")] = 0.01,
    seed: Annotated[int | None, typer.Option("--seed", metavar="N", help="[default: from the name]")] = None,
) -> None:
    """Make an adapter of random weights that fits a base: valid, different from the base, and trained for nothing.

    Of use to try out switching, batches and memory before there are adapters that have learned something.
    """
    from loradex.adapters.base_model import read_model_info
    from loradex.adapters.formats.convert import write_adapter
    from loradex.adapters.mock import random_lora

    base = read_model_info(model)
    number = zlib.crc32(check_name(name).encode()) if seed is None else seed
    where = folder / name
    with out.progress() as progress:
        progress("make", 0.0)
        lora = random_lora(base, rank, alpha=alpha or rank, modules=modules or (), scale=scale, seed=number)
        size, notes = write_adapter(lora, form, where, base)
    facts = [
        ("adapter", str(where)),
        ("format", form),
        ("rank", str(rank)),
        ("modules", str(len(lora.pairs))),
        ("weights", f"{human_count(lora.parameters)}, {human_size(size)}"),
        *(("note", note) for note in notes),
    ]
    value = {"path": str(where), "format": form, "rank": rank, "modules": len(lora.pairs)}
    value |= {"parameters": lora.parameters, "bytes": size, "seed": number}
    out.data(value, grid(("", ""), facts), quiet=[str(where)])
    out.next(f"loradex adapter check {where} --base {model}")
