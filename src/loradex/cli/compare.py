"""`loradex compare`: what several adapters say to one prompt, or to a file of them, all in one batch."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from loradex.cli.command import HOME, TARGET, Flag, command
from loradex.cli.compare_report import check_suffix, document, write_report
from loradex.cli.compare_table import Case, scores
from loradex.cli.compare_view import Board, shown, table
from loradex.cli.errors import UsageFailed
from loradex.cli.output import Output
from loradex.cli.prompts_file import PromptLine, read_prompts
from loradex.cli.talk import MaxTokens, Seed, System, Temperature
from loradex.errors import LoradexError, ServerUnreachable
from loradex.settings import Settings

if TYPE_CHECKING:
    from loradex.client.comparison import Comparison

_AT_ONCE = 4
"""Prompts of a file that are under way together; each is a batch of all sides."""

FLAGS = (
    *TARGET,
    Flag("adapters", ("--adapter",), "With --model: an adapter, as serve takes it.", "NAME=PATH"),
    *HOME,
)


def register(app: typer.Typer) -> None:
    """Add the command to the root."""
    examples = (
        'loradex compare "What is a fever?" -a medical -a legal -a base',
        'loradex compare "May a doctor tell?" -a medical@1 -a "medical*0.7+legal*0.3" -a auto --output page.html',
        "loradex compare --file prompts.jsonl -a medical -a base --output table.md",
    )
    command(app, "compare", flags=FLAGS, examples=examples)(compare)


def compare(
    out: Output,
    settings: Settings,
    sides: Annotated[
        list[str],
        typer.Option("-a", "--side", metavar="SIDE", help="Who answers: an adapter, name@3, a mix, base or auto."),
    ],
    prompt: Annotated[
        str | None, typer.Argument(metavar="PROMPT", help="The question; `-` reads standard input.", show_default=False)
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--file", metavar="FILE", help="JSON lines of prompt and, if known, reference.")
    ] = None,
    reference: Annotated[
        str, typer.Option("--reference", metavar="TEXT", help="A good answer; sides tell how likely they find it.")
    ] = "",
    output: Annotated[
        Path | None, typer.Option("--output", metavar="FILE", help="Write it too: .json, .md or .html.")
    ] = None,
    max_tokens: MaxTokens = None,
    temperature: Temperature = 0.0,
    seed: Seed = None,
    system: System = None,
    model: Annotated[
        str | None, typer.Option("--model", metavar="MODEL", help="Without a server: folder or hub id of the base.")
    ] = None,
) -> None:
    """Ask several adapters the same, side by side and in one batch.

    What they agree on, how sure they are of each token, and how fast they are comes with it. A file of prompts gives a
    table; its references are scored by their perplexity under each side, with no judge. The running server is asked,
    or with --model one in this process.
    """
    if (prompt is None) == (file is None):
        raise UsageFailed("Give one prompt, or a file of them", hint='loradex compare "What is a fever?" -a base')
    if output is not None:
        check_suffix(output)
    given = {"max_tokens": max_tokens, "temperature": temperature, "seed": seed}
    asking = _Asking(sides, {name: value for name, value in given.items() if value is not None}, system or "")
    lines = read_prompts(file) if file is not None else []
    with _place(out, settings, model) as place:
        if file is not None:
            _many(out, place, asking, lines, output)
        else:
            _one(out, place, asking, PromptLine(sys.stdin.read() if prompt == "-" else prompt or "", reference), output)


@dataclass(frozen=True, slots=True)
class _Asking:
    """Who is asked, and how."""

    sides: Sequence[str]
    options: Mapping[str, Any]
    system: str

    def prompt(self, line: PromptLine) -> Any:
        """Return a prompt with the system message before it."""
        if not self.system:
            return line.prompt
        turns = [{"role": "user", "content": line.prompt}] if isinstance(line.prompt, str) else line.prompt
        return [{"role": "system", "content": self.system}, *turns]


@dataclass(frozen=True, slots=True)
class _Place:
    """The server that is asked."""

    url: str
    api_key: str


@contextmanager
def _place(out: Output, settings: Settings, model: str | None) -> Iterator[_Place]:
    """Find the server, or run one in this process for as long as it is needed."""
    from loradex.client.wire import DEFAULT_URL

    if model is None:
        yield _Place(settings.url or DEFAULT_URL, settings.api_key)
        return
    from loradex.cli.stack import add_adapters
    from loradex.server.run import Server
    from loradex.service.wiring import make_service

    settings = replace(settings, engine=replace(settings.engine, model=model))
    service = make_service(settings)
    own = replace(settings.server, host="127.0.0.1", port=0, infer_keys=(), admin_keys=())
    out.say(f"loading {model} ...", style="dim")
    with out.progress() as progress:
        server = Server(
            service,
            own,
            prepare=lambda: add_adapters(service, settings, progress),
            log_level="critical",
            drain_seconds=2,
        )
        with server.background(progress) as url:
            yield _Place(url, "")


def _one(out: Output, place: _Place, asking: _Asking, line: PromptLine, output: Path | None) -> None:
    from loradex.client.client import Client

    found: Comparison | None = None
    board = Board(asking.sides, out.width)
    with Client(place.url, api_key=place.api_key) as client, out.live() as show:
        prompt = asking.prompt(line)
        for event in client.compare_events(prompt, asking.sides, reference=line.reference, **asking.options):
            board.take(event)
            show(board.shown)
            found = event.comparison or found
    if found is None:
        raise ServerUnreachable("The server ended the comparison before its end", hint="See its log, then try again")
    case = Case(line, found)
    out.data(document([case], asking.sides), shown(found, out.width), [each.text for each in found.sides])
    _finish(out, [case], asking, output)


def _many(out: Output, place: _Place, asking: _Asking, lines: Sequence[PromptLine], output: Path | None) -> None:
    import asyncio

    from loradex.client.aio import AsyncClient

    async def drive() -> list[Case]:
        room = asyncio.Semaphore(_AT_ONCE)
        done = 0

        async def ask(line: PromptLine) -> Case:
            nonlocal done
            if line.problem:
                return Case(line, problem=line.problem)
            async with room:
                prompt = asking.prompt(line)
                try:
                    said = await client.compare(prompt, asking.sides, reference=line.reference, **asking.options)
                except LoradexError as error:
                    if isinstance(error, ServerUnreachable):
                        raise
                    return Case(line, problem=f"{line.shown[:60]!r}: {error.message}")
                done += 1
                progress("prompts", done / len(lines))
                return Case(line, said)

        async with AsyncClient(place.url, api_key=place.api_key) as client:
            return list(await asyncio.gather(*map(ask, lines)))

    with out.progress() as progress:
        cases = asyncio.run(drive())
    found = scores(cases, asking.sides)
    out.data(document(cases, asking.sides), table(found, cases), [score.side for score in found])
    _finish(out, cases, asking, output)


def _finish(out: Output, cases: Sequence[Case], asking: _Asking, output: Path | None) -> None:
    """Write the report, and end with an error where nobody has answered anything."""
    if output is not None:
        write_report(output, cases, asking.sides)
        out.say(f"written to {output}", style="dim")
    answered = [side for case in cases if case.comparison for side in case.comparison.sides if side.error is None]
    if not answered:
        out.say("No side has answered", style="bold red")
        raise typer.Exit(1)
