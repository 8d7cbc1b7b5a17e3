"""`loradex serve`: one base model with its adapters behind HTTP."""

from __future__ import annotations

import shlex
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from loradex.cli.command import command
from loradex.cli.flags import SERVE
from loradex.cli.output import Output, grid
from loradex.cli.stack import add_adapters
from loradex.settings import Settings

if TYPE_CHECKING:
    from loradex.service.service import Service

_VLLM = "Accepted for vLLM's sake; it changes nothing here."
_LIKE_VLLM = {"rich_help_panel": "As in vLLM"}


def register(app: typer.Typer) -> None:
    """Add the command to the root."""
    examples = (
        "loradex serve ./llama --adapter medical=./medical --adapter legal=./legal",
        "loradex serve Qwen/Qwen2.5-0.5B-Instruct --allow-dir ./adapters --port 8080",
    )
    command(app, "serve", flags=SERVE, examples=examples)(serve)


def serve(
    out: Output,
    settings: Settings,
    model: Annotated[
        str | None, typer.Argument(metavar="MODEL", help="Folder or hub id of the base model.", show_default=False)
    ] = None,
    enable_lora: Annotated[bool, typer.Option("--enable-lora", help=_VLLM, **_LIKE_VLLM)] = False,
    max_cpu_loras: Annotated[str | None, typer.Option(metavar="N", help=_VLLM, **_LIKE_VLLM)] = None,
    seed: Annotated[str | None, typer.Option(metavar="N", help=_VLLM, **_LIKE_VLLM)] = None,
) -> None:
    """Serve a base model with its LoRA adapters over HTTP.

    Clients made for OpenAI's API or for vLLM work as they are. Adapters named here are trusted; clients may load others
    from the allowed folders. MODEL may also stand in the settings file (engine.model), and so may everything else: see
    loradex config init.
    """
    from loradex.server.run import Server
    from loradex.service.wiring import make_service

    for flag, given in (("--max-cpu-loras", max_cpu_loras), ("--seed", seed)):
        if given is not None:
            out.say(f"note: {flag} has no effect here", style="yellow")
    if model is not None:
        settings = replace(settings, engine=replace(settings.engine, model=model))
    service = make_service(settings)
    with ExitStack() as bars:
        progress = bars.enter_context(out.progress())

        async def prepare() -> None:
            await add_adapters(service, settings, progress)

        def ready(url: str) -> None:
            bars.close()
            announce(out, service, settings, url)

        server = Server(service, settings.server, prepare=prepare)
        server.bind()
        out.say(f"loading {settings.engine.model} ...", style="dim")
        server.run(progress, ready)
    out.say("stopped")


def announce(out: Output, service: Service, settings: Settings, url: str) -> None:
    """Say where the server is, what it serves and what to try."""
    names = [card.id for card in service.models() if card.parent is not None]
    folders = [str(each) for each in settings.server.allow_dirs]
    info = service.info
    kind = info.dtype if info.quantization == "none" else f"{info.quantization} with {info.dtype}"
    facts = [
        ("url", url),
        ("model", f"{info.id} ({info.architecture}, {kind} on {info.device})"),
        ("adapters", ", ".join(names) or "none yet"),
        ("allowed folders", ", ".join(folders) or "none: clients cannot load adapters (see --allow-dir)"),
        ("keys", "required" if settings.server.infer_keys or settings.server.admin_keys else "none: open to all"),
    ]
    value = {"url": url, "model": info.id, "adapters": names, "allow_dirs": folders}
    out.data(value, grid(("", ""), facts), quiet=[url])
    out.say()
    out.next(try_it(url, names[0] if names else "base", bool(settings.server.infer_keys or settings.server.admin_keys)))
    other = "" if url.endswith(":8000") else f" --url {url}"
    out.next(f"loradex adapter add NAME {folders[0] if folders else 'DIR'}/NAME{other}")
    out.say("Ctrl+C stops it; running answers end first", style="dim")


def try_it(url: str, model: str, locked: bool) -> str:
    """Return a command that asks the server one question."""
    body = f'{{"model": "{model}", "messages": [{{"role": "user", "content": "Hello"}}]}}'
    key = " -H 'Authorization: Bearer KEY'" if locked else ""
    return f"curl {url}/v1/chat/completions -H 'Content-Type: application/json'{key} -d {shlex.quote(body)}"
