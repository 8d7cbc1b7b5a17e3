"""`loradex doctor`: is this machine ready, and what to do where it is not."""

from __future__ import annotations

import typer

from loradex.cli.command import HOME, TARGET, command
from loradex.cli.output import Output, grid
from loradex.settings import Settings

_COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


def register(app: typer.Typer) -> None:
    """Add the command to the root."""
    command(app, "doctor", flags=(*TARGET, *HOME), examples=("loradex doctor", "loradex doctor --json"))(doctor)


def doctor(out: Output, settings: Settings) -> None:
    """Check whether this machine is ready, with a fix for each finding.

    Looks at Python, the engine's packages, memory, disk, the registry and the server. Exits with 1 where one fails.
    """
    from rich.text import Text

    from loradex.cli.checks import every_check

    found = list(every_check(settings))
    rows = [(each.name, Text(each.status, style=_COLOURS[each.status]), each.detail, each.fix) for each in found]
    failed = [each.name for each in found if each.status == "fail"]
    out.data({"ok": not failed, "checks": found}, grid(("check", "", "found", "fix"), rows), quiet=failed)
    if failed:
        raise typer.Exit(1)
