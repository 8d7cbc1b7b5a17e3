"""`loradex config`: show every setting with its source, or write a commented file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from loradex.cli.command import command
from loradex.cli.output import Output
from loradex.errors import Conflict
from loradex.settings import FILE, Setting, Settings

if TYPE_CHECKING:
    from collections.abc import Iterable

app = typer.Typer(name="config", help="Show or write settings.", no_args_is_help=True, rich_markup_mode=None)


@command(app, "show", examples=("loradex config show", "LORADEX_ENGINE__MAX_LORAS=4 loradex config show --json"))
def show(out: Output, settings: Settings) -> None:
    """Show every setting: its value, where that came from, and its environment variable."""
    found = settings.describe()
    rows = [(each.key, _shown(each.value), each.source, each.variable) for each in found]
    value = {each.key: {"value": each.value, "source": each.source, "variable": each.variable} for each in found}
    out.table(("setting", "value", "source", "variable"), rows, value, [each.key for each in found])


@command(app, "init", examples=("loradex config init", "loradex config init --file prod.toml"))
def init(
    out: Output,
    file: Annotated[Path, typer.Option("--file", metavar="FILE", help="Where to write.")] = Path(FILE),
    force: Annotated[bool, typer.Option("--force", help="Write over a file that exists.")] = False,
) -> None:
    """Write a settings file with every setting at its default, commented out."""
    if file.exists() and not force:
        raise Conflict(f"`{file}` exists", hint="Give `--force` to write over it, or another name with `--file`")
    file.write_text(template(Settings().describe()), encoding="utf-8")
    out.data({"written": str(file)}, f"wrote {file}", quiet=[str(file)])
    out.next(f"edit it, then: loradex serve MODEL --config {file}")


def template(settings: Iterable[Setting]) -> str:
    """Return a settings file that changes nothing and shows everything."""
    lines = ["# Settings of Loradex. A flag beats the environment, the environment beats this file."]
    part = None
    # TOML wants the keys without a table first.
    for each in sorted(settings, key=lambda each: each.key.count(".")):
        table, _, name = each.key.rpartition(".")
        if table != part and table:
            lines += ["", f"[{table}]"]
        part = table
        lines.append(f"# {name} = {_toml(each.value)}")
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, tuple | list):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml(item)}" for key, item in value.items()) + "}"
    return f'"{"" if value is None else value}"'


def _shown(value: Any) -> str:
    if value is None or value in ("", (), {}):
        return "-"
    if isinstance(value, tuple):
        return ", ".join(str(item) for item in value)
    if isinstance(value, dict):
        return ", ".join(f"{key}={item}" for key, item in value.items())
    return str(value)
