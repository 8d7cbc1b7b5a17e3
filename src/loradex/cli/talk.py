"""`loradex run` and `loradex chat`: ask a running server."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any

import typer

from loradex.cli.command import TARGET, command
from loradex.cli.infer import read_pairs
from loradex.cli.output import Output
from loradex.cli.run_here import run_here
from loradex.cli.target import Target
from loradex.core.adapter import BASE
from loradex.core.mix import parse_mix
from loradex.errors import LoradexError

if TYPE_CHECKING:
    from loradex.client.client import Client

_WHO = "An adapter (name, name@3, name@alias), a mix (one*0.7+two*0.3) or `base`."
Model = Annotated[str, typer.Argument(metavar="MODEL", help=_WHO, show_default=False)]
MaxTokens = Annotated[int | None, typer.Option("--max-tokens", metavar="N", help="Tokens of the answer at most.")]
Temperature = Annotated[float, typer.Option("--temperature", metavar="T", help="0 always takes the likeliest token.")]
Seed = Annotated[int | None, typer.Option("--seed", metavar="N", help="Makes the answer reproducible.")]
System = Annotated[str | None, typer.Option("--system", metavar="TEXT", help="System message.")]

_HELP = "/adapter NAME switches the adapter, /reset forgets the conversation, /quit ends"


def register(app: typer.Typer) -> None:
    """Add the commands to the root."""
    examples = (
        'loradex run medical "What is hypertension?"',
        'loradex run "medical*0.7+legal*0.3" "May a doctor tell?"',
        "echo 'What is an NDA?' | loradex run legal@2 -",
        'loradex run medical "What is a fever?" --engine-dir ./engine --lora-weights medical:./medical',
    )
    command(app, "run", flags=TARGET, examples=examples)(run)
    command(app, "chat", flags=TARGET, examples=("loradex chat medical", "loradex chat base --temperature 0.7"))(chat)


def run(
    out: Output,
    target: Target,
    model: Model,
    prompt: Annotated[
        str, typer.Argument(metavar="PROMPT", help="The question; `-` reads standard input.", show_default=False)
    ],
    max_tokens: MaxTokens = None,
    temperature: Temperature = 0.0,
    seed: Seed = None,
    system: System = None,
    engine_dir: Annotated[
        str | None, typer.Option(metavar="DIR", help="Answer in this process, from an engine directory or a model.")
    ] = None,
    lora_weights: Annotated[
        list[str] | None, typer.Option(metavar="NAME:PATH,...", help="With --engine-dir: its adapters.")
    ] = None,
) -> None:
    """Ask an adapter, or the base model, one question."""
    asked = sys.stdin.read() if prompt == "-" else prompt
    messages = [*([{"role": "system", "content": system}] if system else []), {"role": "user", "content": asked}]
    options = _options(max_tokens, temperature, seed)
    if engine_dir is not None:
        run_here(out, engine_dir, read_pairs(lora_weights or ()), model, messages, options)
        return
    with target.client() as client:
        if out.mode == "json":
            out.data(client.chat(model, messages, **options))
            return
        with client.stream(model, messages, **options) as stream:
            for piece in stream:
                out.raw(piece.text)
        out.raw("\n")
        out.say(f"{stream.adapter or model}, {stream.usage.get('completion_tokens', 0)} tokens", style="dim")


def chat(
    out: Output,
    target: Target,
    model: Model,
    max_tokens: MaxTokens = None,
    temperature: Temperature = 0.0,
    seed: Seed = None,
    system: System = None,
) -> None:
    """Talk with an adapter.

    /adapter NAME lets another one go on with the conversation.
    """
    opening = [{"role": "system", "content": system}] if system else []
    with target.client() as client:
        talk = Talk(client, out, model, opening, _options(max_tokens, temperature, seed))
        talk.switch(model)
        out.say(_HELP, style="dim")
        _edit_lines()
        while (line := _ask(talk.model)) is not None and talk.heard(line.strip()):
            pass


class Talk:
    """A conversation: which adapter answers next, and what was said so far."""

    def __init__(
        self, client: Client, out: Output, model: str, opening: list[dict[str, str]], options: dict[str, Any]
    ) -> None:
        self.model = model
        self._client = client
        self._out = out
        self._opening = opening
        self._options = options
        self._said = list(opening)

    def heard(self, line: str) -> bool:
        """Answer a line, or do what it commands. Returns whether the conversation goes on."""
        word, _, rest = line.partition(" ")
        if word in ("/quit", "/exit", "/bye"):
            return False
        if word in ("/adapter", "/model") and rest.strip():
            self._try(lambda: self.switch(rest.strip()))
        elif word == "/reset":
            self._said = list(self._opening)
        elif word.startswith("/"):
            self._out.say(_HELP, style="dim")
        elif line:
            self._try(lambda: self._answer(line))
        return True

    def switch(self, model: str) -> None:
        """Let another adapter or mix answer from here on. Raises what is wrong at once, not at the next question."""
        base = self._client.info().model.get("id")
        if model not in (BASE, base):
            for reference in parse_mix(model.removeprefix(f"{base}:").removeprefix(f"{BASE}:")).adapters:
                self._client.adapters.get(reference.name)
        self.model = model
        self._out.say(f"{model} answers", style="dim")

    def _try(self, act: Callable[[], None]) -> None:
        try:
            act()
        except LoradexError as error:  # a slip must not end the conversation
            self._out.error(error)

    def _answer(self, line: str) -> None:
        turns = [*self._said, {"role": "user", "content": line}]
        text = ""
        with self._client.stream(self.model, turns, **self._options) as stream:
            try:
                for piece in stream:
                    text += piece.text
                    self._out.raw(piece.text)
            except KeyboardInterrupt:
                self._out.say(" (stopped)", style="dim")
        self._out.raw("\n")
        self._said = [*turns, {"role": "assistant", "content": text}]


def _options(max_tokens: int | None, temperature: float, seed: int | None) -> dict[str, Any]:
    given = {"max_tokens": max_tokens, "temperature": temperature, "seed": seed}
    return {name: value for name, value in given.items() if value is not None}


def _ask(model: str) -> str | None:
    try:
        return input(f"{model}> " if sys.stdin.isatty() else "")
    except (EOFError, KeyboardInterrupt):
        return None


def _edit_lines() -> None:
    """Let the arrow keys edit the line and find earlier ones, where Python was built with readline."""
    with suppress(ModuleNotFoundError):
        importlib.import_module("readline")
