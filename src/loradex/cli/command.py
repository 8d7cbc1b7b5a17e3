"""How a function becomes a command: common options, settings, output and examples, in one place."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ParamSpec, TypeVar, get_origin, get_type_hints

import typer

from loradex.cli.help import Command
from loradex.cli.output import Output, human_size
from loradex.cli.target import Target
from loradex.settings import KEYS, Settings, variable

P = ParamSpec("P")
R = TypeVar("R")

_DEFAULTS = {each.key: each.value for each in Settings().describe()}

_JSON = Annotated[bool, typer.Option("--json", help="Print JSON on stdout, and errors as JSON on stderr.")]
_QUIET = Annotated[bool, typer.Option("--quiet", "-q", help="Print only names.")]
_CONFIG = Annotated[
    Path | None,
    typer.Option(
        "--config", metavar="FILE", help="Settings, TOML or YAML, instead of ./loradex.toml. [env: LORADEX_CONFIG]"
    ),
]


@dataclass(frozen=True, slots=True)
class Flag:
    """A setting as an option of a command: its dotted key, its spellings and what it means."""

    key: str
    names: tuple[str, ...]
    help: str
    metavar: str | None = None
    section: str | None = None

    @property
    def parameter(self) -> inspect.Parameter:
        """The option as Typer wants it. Values stay text: `Settings.read` reads them as it reads the environment."""
        kind: Any = bool | None if KEYS[self.key] is bool else str | None
        if get_origin(KEYS[self.key]) in (tuple, dict):
            kind = list[str] | None
        option = typer.Option(
            *self.names,
            help=f"{self.help} [{_default(self.key)}env: {variable(self.key)}]",
            metavar=self.metavar,
            rich_help_panel=self.section,
            show_default=False,
        )
        return _keyword(self.key.replace(".", "__"), Annotated[kind, option], None)


TARGET = (
    Flag("url", ("--url",), "Address of the server.", "URL"),
    Flag("api_key", ("--api-key",), "Key for the server.", "KEY"),
)
HOME = (Flag("home", ("--home",), "Folder of the registry.", "DIR"),)


def command(
    app: typer.Typer, name: str, *, examples: Sequence[str], flags: Sequence[Flag] = (), hidden_alias: str = ""
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Make a function a command of `app`.

    The function's own parameters are its arguments and options. It gets `out` (Output), `settings` (Settings, from
    `flags`, environment and file) and `target` (Target) where it has parameters of these names; `--json` and `--quiet`
    are added to every command.
    """

    def register(function: Callable[P, R]) -> Callable[P, R]:
        hints = get_type_hints(function, include_extras=True)
        own = inspect.signature(function).parameters
        wants = {each for each in ("out", "settings", "target") if each in own}
        reads = bool(wants & {"settings", "target"})

        @functools.wraps(function)
        def run(**given: Any) -> R:
            as_json, quiet = given.pop("json_"), given.pop("quiet")
            output = Output("json" if as_json else "quiet" if quiet else "human")
            if reads:
                values = {flag.key: given.pop(flag.key.replace(".", "__")) for flag in flags}
                # An option that may be repeated is an empty list where it was not given.
                values = {key: None if value == [] else value for key, value in values.items()}
                settings = Settings.read(values, given.pop("config"))
                given |= {"settings": settings, "target": Target(settings, output)}
            given["out"] = output
            return function(**{key: value for key, value in given.items() if key in own})  # type: ignore[call-arg]

        parameters = [each.replace(annotation=hints[key]) for key, each in own.items() if key not in wants]
        parameters += [flag.parameter for flag in flags] if reads else []
        parameters += [_keyword("config", _CONFIG, None)] if reads else []
        parameters += [_keyword("json_", _JSON, False), _keyword("quiet", _QUIET, False)]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {each.name: each.annotation for each in parameters}
        del run.__wrapped__
        epilog = "\n".join(("Examples:", *(f"  {example}" for example in examples)))
        for each in filter(None, (name, hidden_alias)):
            page = inspect.getdoc(function)
            app.command(each, cls=Command, epilog=epilog, help=page, hidden=each == hidden_alias)(run)
        return function

    return register


def _default(key: str) -> str:
    """Return how help shows the default: not at all for lists, and for what the model or the machine decides."""
    value = _DEFAULTS[key]
    if value is None or value in ("", (), {}):
        return ""
    if isinstance(value, bool):
        value = "on" if value else "off"
    elif isinstance(value, int) and value >= 1 << 20:
        value = human_size(value).replace(" ", "").replace(".0", "")
    elif isinstance(value, Path):
        value = str(value).replace(str(Path.home()), "~")
    return f"default: {value}; "


def _keyword(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)
