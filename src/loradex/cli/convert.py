"""`loradex adapter convert`: an adapter in another format."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from loradex.adapters.formats.detect import Format
from loradex.cli.adapter import Base
from loradex.cli.base import own_base
from loradex.cli.command import command
from loradex.cli.output import Output, grid, human_count, human_size

EXAMPLES = (
    "loradex adapter convert ./medical-lora --to edge --out ./medical-edge",
    "loradex adapter convert ./medical.gguf --to peft --out ./medical-lora --base ./llama",
    "loradex adapter convert ./medical-pissa --to peft --out ./medical-lora --base ./llama",
)


def register(app: typer.Typer) -> None:
    """Add the command to those of `loradex adapter`."""
    command(app, "convert", examples=EXAMPLES)(convert)


def convert(
    out: Output,
    path: Annotated[Path, typer.Argument(metavar="PATH", help="Folder or file of the adapter.", show_default=False)],
    to: Annotated[Format, typer.Option("--to", help="The format to write.", show_default=False)],
    where: Annotated[
        Path, typer.Option("--out", metavar="PATH", help="Folder to write; it must not exist yet.", show_default=False)
    ],
    base: Base = None,
    initial: Annotated[
        Path | None,
        typer.Option("--initial", metavar="PATH", help="Folder of the adapter as it was before training (CorDA etc.)."),
    ] = None,
) -> None:
    """Write an adapter in another format: PEFT, TensorRT-Edge-LLM (edge), llama.cpp (gguf) or NeMo 1 (nemo).

    What began on changed base weights is made plain, with twice the rank: PiSSA and OLoRA by the base, others by the
    adapter as it was before training.
    What the format cannot hold is refused with the reason; weights keep their dtype wherever the format has it.
    """
    from loradex.adapters.base_model import read_model_info
    from loradex.adapters.formats.convert import convert as run

    folder = base or own_base(path)
    with out.progress() as progress:
        progress("convert", 0.0)
        info = read_model_info(folder) if folder else None
        done = run(path, to, where, info, initial, lambda share: progress("convert", share))
    facts = [
        ("from", done.source),
        ("to", done.target),
        ("modules", str(done.modules)),
        ("weights", f"{human_count(done.parameters)}, {human_size(done.bytes)}"),
        ("written", str(done.path)),
        *(("note", note) for note in done.notes),
    ]
    out.data(done, grid(("", ""), facts), quiet=[str(done.path)])
