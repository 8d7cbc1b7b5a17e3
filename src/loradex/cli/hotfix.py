"""`loradex hotfix-test`: does a replace under load keep its promises?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from loradex.cli.bench_options import File, where
from loradex.cli.command import TARGET, command
from loradex.cli.errors import UsageFailed
from loradex.cli.output import Output, grid
from loradex.cli.target import Target
from loradex.settings import Settings, parse_duration

if TYPE_CHECKING:
    from rich.console import RenderableType

    from loradex.bench.hotfix import Hotfix
    from loradex.bench.result import Result
    from loradex.bench.verbs import Verbs
    from loradex.engine.base import Progress

EXAMPLES = (
    "loradex hotfix-test ./medical ./medical-v2",
    "loradex hotfix-test ./medical ./medical-v2 --url http://gpu-box:8000 --streams 16 --swaps 50 --json",
)


def register(app: typer.Typer) -> None:
    """Add the command to the root."""
    command(app, "hotfix-test", flags=TARGET, examples=EXAMPLES)(hotfix_test)


def hotfix_test(
    out: Output,
    settings: Settings,
    target: Target,
    one: Annotated[
        str | None,
        typer.Argument(metavar="[ONE]", help="A version, as the server finds it. [default: the demo's `medical`]"),
    ] = None,
    two: Annotated[
        str | None, typer.Argument(metavar="[TWO]", help="The other version. [default: the demo's `medical-v2`]")
    ] = None,
    streams: Annotated[int, typer.Option(metavar="N", min=1, help="Answers at once.")] = 4,
    swaps: Annotated[int, typer.Option(metavar="N", min=1, help="How often the name is moved.")] = 10,
    every: Annotated[str, typer.Option(metavar="TIME", help="Rest after each swap.")] = "300ms",
    bound: Annotated[str, typer.Option("--stall", metavar="TIME", help="Longest wait of a stream.")] = "2s",
    tokens: Annotated[int, typer.Option(metavar="N", min=2, help="Tokens of each answer.")] = 96,
    prompt: Annotated[
        list[str] | None, typer.Option(metavar="TEXT", help="Ask this instead. Repeat it.", show_default=False)
    ] = None,
    mode: Annotated[str, typer.Option(metavar="MODE", help="Of the replace: drain or immediate.")] = "drain",
    name: Annotated[
        str, typer.Option(metavar="NAME", help="Name of the adapter, free before and after.")
    ] = "hotfix-test",
    by_text: Annotated[
        bool, typer.Option("--by-text", help="Compare texts although the server names its weights.")
    ] = False,
    file: File = "-",
) -> None:
    """Replace an adapter again and again while streams on it are answered, and check every answer.

    Each must finish, none may fail or wait too long, and each must hold one version: the one in force when it was asked
    for. A Loradex server names the weights of every piece; on a vLLM server texts are compared with those that each
    version gives alone. The name is taken away in the end. Exit code 1 where anything does not hold.
    """
    from loradex.bench.hotfix import PROMPTS, Hotfix
    from loradex.client.wire import DEFAULT_URL

    if (one is None) != (two is None):
        raise UsageFailed("hotfix-test takes two versions", hint="loradex hotfix-test ./medical ./medical-v2")
    given = Hotfix(
        settings.url or DEFAULT_URL,
        name,
        (_version(target, one, "medical"), _version(target, two, "medical-v2")),
        streams,
        swaps,
        _seconds("--every", every),
        tokens,
        _seconds("--stall", bound),
        mode,
        by_text,
        tuple(prompt or PROMPTS),
        settings.api_key,
    )
    with out.progress() as progress:
        result = _run(given, target.served(), progress)
    path = where(file, result.name)
    if path is not None:
        result.save(path)
    ok = bool(result.raw["ok"])
    out.data({"ok": ok, **result.describe()}, _shown(result), quiet=["ok" if ok else "failed"])
    if path is not None:
        out.say(f"wrote {path}", style="dim")
        out.next(f"loradex bench report {path}")
    if not ok:
        raise typer.Exit(1)


def _run(given: Hotfix, verbs: Verbs, progress: Progress) -> Result:
    """Run it. Who ends it with SIGTERM, as with SIGINT, finds the name taken away."""
    import asyncio
    import signal

    from loradex.bench.hotfix import hotfix

    async def work() -> Result:
        task = asyncio.current_task()
        if task is not None:
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        return await hotfix(given, verbs, progress)

    try:
        return asyncio.run(work())
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


def _version(target: Target, source: str | None, shipped: str) -> str:
    from loradex.cli.demo_assets import FOLDER

    return target.place(source) if source is not None else str(FOLDER / "adapters" / shipped)


def _seconds(option: str, text: str) -> float:
    try:
        return parse_duration(text)
    except ValueError as error:
        raise UsageFailed(f"{option} is {text!r}: {error}", hint=f"Write it like {option} 2s") from error


def _shown(result: Result) -> list[RenderableType]:
    """Return the checks and the times as tables for people."""
    from rich.text import Text

    from loradex.bench.table import COLUMNS, cells, check_cells

    checks = [
        (Text(held, style="green" if held == "yes" else "bold red"), what, found)
        for what, held, found in map(check_cells, result.raw["checks"])
    ]
    pages: list[RenderableType] = [grid(("", "", ""), checks, wrap=True), ""]
    pages.append(grid(COLUMNS[:5], [cells(row)[:5] for row in result.rows]))
    mixed = [each for each in result.raw["streams"] if each.get("mixed")]
    if mixed:
        first = mixed[0]
        pages.append(
            f"\none answer, with {first['swaps']} swaps in it, left its version after {first['left_after']} characters:"
        )
        pages.append(Text(first["text"]))
    return pages
