"""`loradex ps`, `load`, `unload`, `pin`, `unpin`: what the engine holds."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from loradex.cli.adapter import say_invalid
from loradex.cli.command import TARGET, command
from loradex.cli.errors import UsageFailed
from loradex.cli.output import Output, human_count, human_size, human_time
from loradex.cli.target import Target
from loradex.settings import parse_duration

if TYPE_CHECKING:
    from loradex.client.views import ResidentView

Reference = Annotated[
    str,
    typer.Argument(metavar="ADAPTER", help="Name, name@alias, name@3 or name@sha256:ab12.", show_default=False),
]


def register(app: typer.Typer) -> None:
    """Add the commands to the root."""
    command(app, "ps", flags=TARGET, examples=("loradex ps", "loradex ps --json"))(ps)
    command(app, "load", flags=TARGET, examples=("loradex load medical", "loradex load medical@3"))(load)
    command(
        app,
        "unload",
        flags=TARGET,
        examples=("loradex unload medical", "loradex unload medical --mode drain --timeout 5m"),
    )(unload)
    command(app, "pin", flags=TARGET, examples=("loradex pin medical", "loradex pin medical@3"))(pin)
    command(app, "unpin", flags=TARGET, examples=("loradex unpin medical", "loradex unpin medical@3"))(unpin)


def ps(out: Output, target: Target) -> None:
    """List the adapters that are in memory now."""
    with target.client() as client:
        found, invalid = client.resident(), client.adapters.invalid()
    rows = [
        (
            f"{each.name}@{each.version}",
            each.tier,
            _state(each),
            _ago(each.last_used),
            human_size(each.bytes),
            f"{each.hits} of {each.hits + each.misses}",
            human_time(each.load_seconds) if each.loads else "",
            each.evictions,
            f"{human_count(each.prompt_tokens)} + {human_count(each.output_tokens)}",
            human_time(each.ttft_seconds) if each.ttft_seconds is not None else "",
            each.errors,
        )
        for each in found
    ]
    columns = ("adapter", "tier", "state", "last used", "size", "hits", "load", "evicted", "tokens", "ttft", "errors")
    names = [f"{each.name}@{each.version}" for each in found]
    out.table(
        columns,
        rows,
        {"resident": found, "invalid": invalid},
        names,
        empty="No adapter is in memory; the first request loads one",
    )
    say_invalid(out, invalid)


def load(out: Output, target: Target, adapter: Reference) -> None:
    """Load an adapter before anybody asks for it."""
    with target.client() as client, out.progress() as progress:
        progress("load", 0.0)
        change = client.load(adapter)
    ref = f"{change.name}@{change.version}"
    out.data(change, f"{ref} is in memory after {human_time(change.load_seconds)}", quiet=[ref])


def unload(
    out: Output,
    target: Target,
    adapter: Reference,
    mode: Annotated[
        str, typer.Option("--mode", metavar="MODE", help="For answers that use it: detach, drain or force.")
    ] = "detach",
    timeout: Annotated[str, typer.Option("--timeout", metavar="TIME", help="Longest wait for them.")] = "30s",
) -> None:
    """Free an adapter's slot; the next request loads it again.

    detach: it goes when the answers that use it have ended, and nobody waits for that. drain: wait for them; if they
    take too long it stays. force: end them, with an error.
    """
    try:
        seconds = parse_duration(timeout)
    except ValueError as error:
        raise UsageFailed(f"--timeout is {timeout!r}: {error}", hint="Write it like --timeout 30s") from error
    with target.client() as client:
        client.unload(adapter, mode=mode, timeout=seconds)
    left = "goes when nobody uses it any more" if mode == "detach" else "is out of memory"
    out.data({"unloaded": adapter}, f"{adapter} {left}; its name goes on to be served", quiet=[adapter])


def pin(out: Output, target: Target, adapter: Reference) -> None:
    """Load an adapter and keep it in memory: it, or its next version, never makes room for others."""
    with target.client() as client, out.progress() as progress:
        progress("load", 0.0)
        change = client.pin(adapter)
    ref = f"{change.name}@{change.version}"
    out.data(change, f"{ref} stays in memory until: loradex unpin {adapter}", quiet=[ref])


def unpin(out: Output, target: Target, adapter: Reference) -> None:
    """Let a pinned adapter make room for others again."""
    with target.client() as client:
        client.unpin(adapter)
    out.data({"unpinned": adapter}, f"{adapter} may make room for others again", quiet=[adapter])


def _state(each: ResidentView) -> str:
    counts = ((each.running, "running"), (each.waiting, "waiting"))
    busy = ", ".join(f"{count} {what}" for count, what in counts if count)
    return busy or ("pinned" if each.pinned else "idle")


def _ago(when: str | float | None) -> str:
    """Return a point in time as people say it."""
    if when is None:
        return "never"
    then = datetime.fromtimestamp(when, UTC) if isinstance(when, int | float) else datetime.fromisoformat(when)
    if then.tzinfo is None:
        then = then.replace(tzinfo=UTC)
    seconds = max(0, int((datetime.now(UTC) - then).total_seconds()))
    for unit, size in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= size:
            count = seconds // size
            return f"{count} {unit}{'s' if count > 1 else ''} ago"
    return f"{seconds} s ago"
