"""Options that say what requests for an adapter may leave out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from loradex.cli.errors import UsageFailed

System = Annotated[
    str | None,
    typer.Option("--system", metavar="TEXT", help="System prompt of conversations without one.", show_default=False),
]
Template = Annotated[
    Path | None,
    typer.Option("--chat-template", metavar="FILE", help="Jinja, for its conversations.", show_default=False),
]
SamplingOption = Annotated[
    list[str] | None,
    typer.Option("--sampling", metavar="NAME=VALUE", help="As temperature=0.2; repeat it.", show_default=False),
]
Stop = Annotated[
    list[str] | None,
    typer.Option("--stop", metavar="TEXT", help="String that ends its answers; repeat it.", show_default=False),
]


def read_defaults(
    system: str | None, template: Path | None, sampling: Sequence[str] | None, stop: Sequence[str] | None
) -> dict[str, Any]:
    """Return what the options say; what nobody gave is left out.

    Raises:
        UsageFailed: the template cannot be read, or a value is no number.
    """
    found: dict[str, Any] = {}
    if system is not None:
        found["system"] = system
    if template is not None:
        try:
            found["chat_template"] = template.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageFailed(f"--chat-template {template} cannot be read: {error}") from error
    if sampling:
        found["sampling"] = dict(map(_number, sampling))
    if stop:
        found["stop"] = [text for text in stop if text]
    return found


def merged(before: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return defaults with some fields changed."""
    sampling = {**before.get("sampling", {}), **given.get("sampling", {})}
    return {**before, **given, **({"sampling": sampling} if sampling else {})}


def _number(word: str) -> tuple[str, int | float]:
    name, _, text = word.partition("=")
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        value = None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UsageFailed(f"--sampling {word!r} is not NAME=NUMBER", hint="Write it like --sampling temperature=0.2")
    return name, value
