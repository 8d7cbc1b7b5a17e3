"""`loradex adapter set`: what requests for an adapter may leave out."""

from __future__ import annotations

from typing import Annotated

import typer

from loradex.cli.adapter import FLAGS, Name
from loradex.cli.command import command
from loradex.cli.defaults import SamplingOption, Stop, System, Template, merged, read_defaults
from loradex.cli.errors import UsageFailed
from loradex.cli.output import Output
from loradex.cli.target import Target

EXAMPLES = (
    "loradex adapter set medical --system 'Answer briefly.' --sampling temperature=0.2",
    "loradex adapter set medical --version 2 --clear",
)


def register(app: typer.Typer) -> None:
    """Add the command to those of `loradex adapter`."""
    command(app, "set", flags=FLAGS, examples=EXAMPLES)(configure)


def configure(
    out: Output,
    target: Target,
    name: Name,
    version: Annotated[
        int | None, typer.Option("--version", metavar="N", help="This one, not the one that the name means.")
    ] = None,
    system: System = None,
    chat_template: Template = None,
    sampling: SamplingOption = None,
    stop: Stop = None,
    clear: Annotated[bool, typer.Option("--clear", help="Forget what was set before.")] = False,
) -> None:
    """Set what requests for a version may leave out. What a request gives wins, field by field."""
    given = read_defaults(system, chat_template, sampling, stop)
    if not given and not clear:
        raise UsageFailed("Nothing is set", hint=EXAMPLES[0])
    verbs = target.adapters()
    found = verbs.get(name)
    number = version if version is not None else found.current
    before = next((each.defaults for each in found.versions if each.version == number), {})
    after = verbs.configure(name, given if clear else merged(before, given), number)
    now = next(each.defaults for each in after.versions if each.version == number)
    said = ", ".join(now) or "nothing"
    out.data(after, f"{name}@{number} has defaults for: {said}", quiet=[f"{name}@{number}"])
