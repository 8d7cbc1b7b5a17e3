"""`loradex adapter canary` and `shadow`: a version gets some of a name's requests, or copies of them."""

from __future__ import annotations

from typing import Annotated

import typer

from loradex.cli.adapter import FLAGS, Name
from loradex.cli.command import command
from loradex.cli.errors import UsageFailed
from loradex.cli.output import Output
from loradex.cli.target import Target

CANARY = ("loradex adapter canary medical 3=90 4=10", "loradex adapter canary medical --end")
SHADOW = ("loradex adapter shadow medical 4 --percent 10", "loradex adapter shadow medical --end")

End = Annotated[bool, typer.Option("--end", help="End it.")]


def register(app: typer.Typer) -> None:
    """Add the commands to those of `loradex adapter`."""
    command(app, "canary", flags=FLAGS, examples=CANARY)(canary)
    command(app, "shadow", flags=FLAGS, examples=SHADOW)(shadow)


def canary(
    out: Output,
    target: Target,
    name: Name,
    shares: Annotated[
        list[str] | None,
        typer.Argument(metavar="VERSION=PERCENT", help="What is missing to 100 stays where it is.", show_default=False),
    ] = None,
    end: End = False,
) -> None:
    """Let versions share the requests for a name, or end that. One user always gets the same version."""
    if end == bool(shares):
        raise UsageFailed("Give either shares or --end", hint="loradex adapter canary medical 3=90 4=10")
    verbs = target.adapters()
    found = verbs.end_canary(name) if end else verbs.canary(name, _shares(shares or []))
    said = ", ".join(f"version {version} answers {percent:g} %" for version, percent in found.canary.items())
    said = f"{name}: {said}; it goes back to version {found.current}" if said else f"{name} is version {found.current}"
    out.data(found, said, quiet=[f"{name}@{version}" for version in found.canary or [found.current]])


def _shares(words: list[str]) -> dict[int, float]:
    try:
        pairs = [(int(version), float(percent)) for version, _, percent in (word.partition("=") for word in words)]
    except ValueError as error:
        raise UsageFailed(f"{' '.join(words)!r} is not VERSION=PERCENT", hint="Write it like 3=90 4=10") from error
    if len(dict(pairs)) < len(pairs):
        raise UsageFailed(f"{' '.join(words)!r} names a version twice", hint="Write it like 3=90 4=10")
    return dict(pairs)


def shadow(
    out: Output,
    target: Target,
    name: Name,
    version: Annotated[
        int | None, typer.Argument(metavar="VERSION", help="Number of the version.", show_default=False)
    ] = None,
    percent: Annotated[float, typer.Option("--percent", metavar="N", help="Part of the requests.")] = 100.0,
    end: End = False,
) -> None:
    """Let a version answer copies of the requests for a name, which nobody sees, or end that.

    The server writes them, beside the answers that were given, to shadows/NAME.jsonl in its data folder.
    """
    if end == (version is not None):
        raise UsageFailed("Give either a version or --end", hint="loradex adapter shadow medical 4 --percent 10")
    verbs = target.adapters()
    found = verbs.end_shadow(name) if version is None else verbs.shadow(name, version, percent)
    said = f"{name}@{version} gets copies of {percent:g} % of the requests" if version else f"{name} has no shadow"
    out.data(found, said, quiet=[f"{name}@{version}"] if version else [])
