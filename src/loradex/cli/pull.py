"""`loradex adapter pull`: an adapter from the Hub, or from anywhere, as a folder here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from loradex.cli.adapter import Source
from loradex.cli.command import Flag, command
from loradex.cli.output import Output, grid, human_size
from loradex.errors import SourceFailed
from loradex.registry.sources.address import is_url, located
from loradex.settings import Settings

FLAGS = (Flag("max_adapter_size", ("--max-adapter-size",), "Largest adapter that is downloaded or unpacked.", "SIZE"),)

EXAMPLES = (
    "loradex adapter pull hf://acme/medical-lora@v4",
    "loradex adapter pull acme/medical-lora --out ./adapters/medical",
    "loradex adapter pull hf://acme/medical-lora --out ./medical --fallback ./medical-mock",
)

_WITHOUT = "Give an adapter of this machine with `--fallback PATH`, or make a random one: loradex adapter mock"


def register(app: typer.Typer) -> None:
    """Add the command to those of `loradex adapter`."""
    command(app, "pull", flags=FLAGS, examples=EXAMPLES)(pull)


def pull(
    out: Output,
    settings: Settings,
    source: Source,
    where: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Folder to make. [default: ./adapters/NAME]")
    ] = None,
    fallback: Annotated[
        str, typer.Option("--fallback", metavar="SOURCE", help="Take this where the first cannot be reached.")
    ] = "",
    force: Annotated[bool, typer.Option("--force", help="Replace the folder.")] = False,
) -> None:
    """Download an adapter into a folder of this machine, at one commit of the Hub.

    Without network, what lies in the Hub's cache is taken; else the fallback, and where there is none the error says
    how to get an adapter. Nothing is served: that is loradex adapter add.
    """
    from loradex.registry.sources import pull as puller

    place = located(source)
    folder = where or Path("adapters") / _name(place)
    with out.progress() as progress:
        try:
            done = puller.pull(
                place,
                folder,
                settings.max_adapter_size,
                fallback=located(fallback) if fallback else "",
                force=force,
                told=progress,
            )
        except SourceFailed as error:
            raise SourceFailed(error.message, hint=f"{error.hint}. {_WITHOUT}") from error
    if done.fell_back:
        out.say(f"{done.fell_back}; took {fallback} instead", style="yellow")
    facts = [("from", done.origin), ("size", human_size(done.bytes)), ("folder", str(done.path))]
    out.data(done, grid(("", ""), facts), quiet=[str(done.path)])
    out.next(f"loradex adapter add {folder.name} {done.path}")


def _name(place: str) -> str:
    """Return what a source is called: the last part of its path, without revision and ending."""
    last = place.rstrip("/").rpartition("/")[2]
    last = last.partition("@")[0] if is_url(place) else last
    for ending in (".gz", ".tar", ".tgz", ".zip", ".gguf", ".nemo"):
        last = last.removesuffix(ending)
    return last or "adapter"
