"""`loradex demo`: the product in one minute, on the model that ships with the package."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from loradex.cli.command import Flag, command
from loradex.cli.output import Output, grid, human_time
from loradex.cli.stack import add_adapters
from loradex.settings import Settings

if TYPE_CHECKING:
    from rich.console import RenderableType

    from loradex.cli.demo_assets import DemoAssets
    from loradex.cli.scenario import Facts
    from loradex.server.run import Server

FLAGS = (
    Flag("engine.dtype", ("--dtype",), "auto, float32, bfloat16 or float16.", "TYPE"),
    Flag("engine.device", ("--device",), "auto, cpu, cuda or cuda:N.", "DEVICE"),
    Flag("engine.quantization", ("--quantization",), "Round the base's weights: none, int8, int4 or fp8.", "METHOD"),
    Flag("engine.threads", ("--threads",), "CPU threads.", "N"),
    Flag("server.port", ("--port",), "With --serve: port to listen on.", "PORT"),
)

_SNIPPET = """\
from openai import OpenAI

client = OpenAI(base_url="{url}/v1", api_key="none")
question = [{{"role": "user", "content": "{question}"}}]
for model in ("base", "medical", "legal"):
    answer = client.chat.completions.create(model=model, messages=question, temperature=0)
    print(model, "->", answer.choices[0].message.content)"""


def register(app: typer.Typer) -> None:
    """Add the command to the root."""
    command(app, "demo", flags=FLAGS, examples=("loradex demo", "loradex demo --serve --port 8080"))(demo)


def demo(
    out: Output,
    settings: Settings,
    stay: Annotated[bool, typer.Option("--serve", help="Leave the server running.")] = False,
    engine: Annotated[str, typer.Option("--engine", hidden=True)] = "local",
    shipped: Annotated[Path | None, typer.Option("--assets", hidden=True)] = None,
) -> None:
    """Three experts in one batch, chosen by the prompt, compared, and one replaced while it answers.

    The real server, with a base model and adapters that ship with the package: a toy that has learnt a few hundred
    answers by heart. Ends with an error where anything that it shows is not so.
    """
    from loradex.cli.demo_assets import FOLDER, read_assets

    assets = read_assets(shipped or FOLDER)
    with _home() as home:
        if stay:
            _serve(out, assets, _settings(settings, assets, home, engine))
            return
        facts = _play(out, assets, _settings(settings, assets, home, engine, port=0))
    out.data({**asdict(facts), "ok": facts.ok}, _shown(facts), quiet=["ok" if facts.ok else "failed"])
    if not facts.ok:
        out.say("\nThe demo failed: what is marked NO is not so", style="bold red")
        raise typer.Exit(1)
    out.say("\nWhat to try next", style="bold")
    out.next("loradex demo --serve              leave this server running, then ask it with the openai package")
    out.next("loradex serve MODEL --adapter NAME=PATH     your own model and adapters")
    out.next("loradex --help")


def _settings(settings: Settings, assets: DemoAssets, home: Path, engine: str, port: int | None = None) -> Settings:
    from loradex.cli.demo_assets import EXPERTS

    served = replace(settings.engine, model=str(assets.base), served_name="loradex-demo", max_loras=4)
    # The whole machine is ours for a minute, but the toy needs little of it.
    served = replace(served, kv_cache_memory=min(served.kv_cache_memory, 64 << 20), max_model_len=None)
    server = replace(settings.server, allow_dirs=(assets.folder,), host="127.0.0.1", infer_keys=(), admin_keys=())
    if port is not None:
        server = replace(server, port=port)
    adapters = {name: str(assets.adapter(name)) for name in EXPERTS}
    router = _router(assets, home)
    return replace(
        settings, engine=served, server=server, home=home, adapters=adapters, engine_name=engine, router=router
    )


def _router(assets: DemoAssets, home: Path) -> Path:
    """Write the router's file: it learns from the questions that the experts were taught, and from general ones."""
    import yaml

    from loradex.cli.demo_assets import EXPERTS, GENERAL
    from loradex.core.adapter import BASE

    routes = {name: {"examples": list(assets.examples(name))} for name in EXPERTS}
    routes[BASE] = {"examples": list(assets.examples(GENERAL))}
    path = home / "router.yaml"
    path.write_text(yaml.safe_dump({"policy": "classifier", "threshold": 0.4, "routes": routes}), encoding="utf-8")
    return path


@contextmanager
def _home() -> Iterator[Path]:
    import tempfile

    with tempfile.TemporaryDirectory(prefix="loradex-demo-") as folder:
        yield Path(folder)


def _server(settings: Settings, progress: Any) -> Server:
    from loradex.server.run import Server
    from loradex.service.wiring import make_service

    service = make_service(settings)

    async def prepare() -> None:
        await add_adapters(service, settings, progress)

    return Server(service, settings.server, prepare=prepare, log_level="warning", drain_seconds=2)


def _play(out: Output, assets: DemoAssets, settings: Settings) -> Facts:
    # Heavy imports wait until the command runs: help must be quick.
    import asyncio

    from loradex.cli.scenario import play
    from loradex.client.aio import AsyncClient

    async def drive(url: str) -> Facts:
        async with AsyncClient(url, timeout=120) as client:
            return await play(client, assets)

    out.say(f"starting the server on {settings.engine.model} ...", style="dim")
    begun = time.perf_counter()
    with out.progress() as progress, _server(settings, progress).background(progress) as url:
        started = time.perf_counter() - begun
        out.say(f"up at {url} after {human_time(started)}; asking ...", style="dim")
        facts = asyncio.run(drive(url))
    facts.start_seconds = started
    return facts


def _serve(out: Output, assets: DemoAssets, settings: Settings) -> None:
    question = assets.about("medical").text

    bars = ExitStack()

    def ready(url: str) -> None:
        bars.close()
        models = ["base", *settings.adapters]
        out.data({"url": url, "models": models}, f"serving {', '.join(models)} at {url}", quiet=[url])
        out.say("\n" + _SNIPPET.format(url=url, question=question) + "\n")
        where = "" if url.endswith(":8000") else f" --url {url}"
        out.next(f'loradex run medical "{question}"{where}')
        out.next(f"loradex adapter add medical {assets.adapter('medical-v2')}{where}")
        out.say("Ctrl+C stops it", style="dim")

    with bars:
        progress = bars.enter_context(out.progress())
        _server(settings, progress).run(progress, ready)


def _shown(facts: Facts) -> list[RenderableType]:
    """Return the facts as tables for people."""
    from rich.text import Text

    asked = [(Text(row["question"], style="bold"), *_answers(row, facts.speakers)) for row in facts.rows]
    change = facts.replace
    rate = facts.batch_tokens / facts.batch_seconds if facts.batch_seconds else 0.0
    return [
        Text("\nOne base model, three experts, one batch", style="bold underline"),
        grid(("question", *facts.speakers), asked, wrap=True),
        f"{facts.batch_answers} answers at once in {human_time(facts.batch_seconds)} ({rate:.0f} tokens/s); "
        "* marks who was taught this answer",
        Text('\nThe prompt chooses the expert: model="auto"', style="bold underline"),
        grid(("question", "went to", "because"), [(r["question"], r["adapter"], r["reason"]) for r in facts.routed]),
        Text("\nOne question, compared on all sides in one batch", style="bold underline"),
        Text(facts.compared["question"], style="bold"),
        grid(_COMPARED, [_compared_row(side) for side in facts.compared["sides"]]),
        Text("\nOne expert replaced while it answers", style="bold underline"),
        grid(("", ""), _replace_rows(change)),
        Text("\nTimes", style="bold underline"),
        grid(("", ""), _time_rows(facts)),
        Text("\nWhat was claimed, and what was seen", style="bold underline"),
        grid(
            ("", ""),
            [
                (Text("yes" if c.holds else "NO", style="green" if c.holds else "bold red"), c.what)
                for c in facts.claims
            ],
        ),
    ]


def _answers(row: dict[str, Any], speakers: tuple[str, ...]) -> list[RenderableType]:
    """Return what each said; who knows the answer is marked."""
    from rich.text import Text

    knows = set(row["knows"])
    return [
        Text(f"* {row['answers'][who]}", style="bold green") if who in knows else Text(row["answers"][who], style="dim")
        for who in speakers
    ]


_COMPARED_NUMBERS = ("tokens_per_second", "mean_logprob", "agreement", "perplexity")
_COMPARED = ("side", "ttft", "tokens/s", "logprob", "agreement", "perplexity of the right answer")


def _compared_row(side: dict[str, Any]) -> tuple[str, ...]:
    return (
        side["side"],
        human_time(side["ttft_seconds"]),
        *("" if side[key] is None else f"{side[key]:.2f}" for key in _COMPARED_NUMBERS),
    )


def _replace_rows(change: dict[str, Any]) -> list[tuple[str, str]]:
    pieces = (
        f"{change['pieces_before']} pieces before, {change['pieces_during']} during, {change['pieces_after']} after"
    )
    return [
        ("question", change["question"]),
        ("the running stream", f"{change['stream']}: {pieces} the replacement"),
        ("it says", change["old_text"]),
        ("the next answer", f"{change['next']} (sha256:{change['digest'][:12]})"),
        ("it says", change["next_text"]),
    ]


def _time_rows(facts: Facts) -> list[tuple[str, str]]:
    change = facts.replace
    return [
        ("server start", human_time(facts.start_seconds)),
        ("time per token", human_time(facts.seconds_per_token)),
        ("replace, as a client sees it", human_time(change["seconds"])),
        ("  check and store", human_time(change["stage_seconds"])),
        ("  load and warm", human_time(change["load_seconds"])),
        ("  switch", human_time(change["switch_seconds"])),
        ("longest gap in the stream", human_time(change["longest_gap_seconds"])),
    ]
