"""`loradex adapter show`: all that is known of an adapter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from loradex.cli.adapter import FLAGS, Name
from loradex.cli.command import command
from loradex.cli.output import Output, grid, human_count, human_size, human_time
from loradex.cli.target import Target
from loradex.errors import AdapterNotFound

if TYPE_CHECKING:
    from loradex.client.views import AdapterView, VersionView

EXAMPLES = ("loradex adapter show medical", "loradex adapter show medical --version 1 --json")

_SAID_ELSEWHERE = frozenset({"base_model_name_or_path", "peft_type", "peft_version", "task_type", "inference_mode"})


def register(app: typer.Typer) -> None:
    """Add the command to those of `loradex adapter`."""
    command(app, "show", flags=FLAGS, examples=EXAMPLES)(show)


def show(
    out: Output,
    target: Target,
    name: Name,
    version: Annotated[
        int | None, typer.Option("--version", metavar="N", help="Details of this one, not of the one that answers.")
    ] = None,
) -> None:
    """Show an adapter: its versions, and one of them in full, with its configuration, where it is and what it did."""
    found = target.adapters().get(name)
    chosen = _chosen(found, version)
    columns = ("version", "aliases", "share", "digest", "rank", "size", "tier", "added (UTC)", "source")
    said = "* is what the bare name means" if found.enabled else "This name is disabled: add it again to serve it"
    pages = [grid(columns, [_row(found, each) for each in found.versions]), f"\n{name}@{chosen.version}"]
    out.data(found, [*pages, grid(("", ""), _details(chosen))], [f"{name}@{each.version}" for each in found.versions])
    out.say(said)


def _chosen(adapter: AdapterView, version: int | None) -> VersionView:
    number = version or adapter.current or adapter.versions[-1].version
    for each in adapter.versions:
        if each.version == number:
            return each
    known = ", ".join(str(each.version) for each in adapter.versions)
    raise AdapterNotFound(f"`{adapter.name}` has no version {number}", hint=f"Its versions are {known}")


def _row(adapter: AdapterView, each: VersionView) -> Sequence[str]:
    return (
        f"{each.version}{' *' if each.version == adapter.current else ''}",
        ", ".join(alias for alias, at in adapter.aliases.items() if at == each.version),
        _share(adapter, each.version),
        each.digest[:12],
        str(each.rank),
        human_size(each.bytes),
        "pinned" if each.pinned else each.tier,
        each.created_at[:16].replace("T", " "),
        each.source,
    )


def _share(adapter: AdapterView, version: int) -> str:
    shares = [f"{adapter.canary[version]:g} %"] if version in adapter.canary else []
    if adapter.shadow is not None and adapter.shadow.version == version:
        shares.append(f"copies of {adapter.shadow.percent:g} %")
    return ", ".join(shares)


def _details(each: VersionView) -> list[tuple[str, str]]:
    if not each.digest:  # a server of another kind, which tells no more
        return [("base", each.base_name or "unknown")]
    loads = f"{each.loads} loads, the last in {human_time(each.load_seconds)}" if each.loads else "no load yet"
    first = "" if each.ttft_seconds is None else f", first token after {human_time(each.ttft_seconds)}"
    tokens = f"{human_count(each.prompt_tokens)} + {human_count(each.output_tokens)} tokens"
    return [
        ("digest", each.digest),
        ("base", each.base_name or "unknown"),
        ("weights", f"{human_count(each.parameters)}, {human_size(each.bytes)}, rank {each.rank}"),
        ("modules", ", ".join(each.modules)),
        ("config", _config(each.config)),
        *((f"default {name}", _written(value)) for name, value in each.defaults.items()),
        ("tier", _tier(each)),
        ("memory", f"{each.hits} of {each.hits + each.misses} hits, {loads}, evicted {each.evictions} times"),
        ("requests", f"{each.requests}, {each.errors} errors, {tokens}{first}"),
    ]


def _config(config: Mapping[str, Any]) -> str:
    """Return what a configuration asks for, in one line: what is off, or said elsewhere, is left out."""
    asked = {key: value for key, value in sorted(config.items()) if value and key not in _SAID_ELSEWHERE}
    return " ".join(f"{key}={_written(value)}" for key, value in asked.items()) or "unknown"


def _written(value: Any) -> str:
    if isinstance(value, Mapping):
        return " ".join(f"{name}={_written(each)}" for name, each in value.items())
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _tier(each: VersionView) -> str:
    copies = ((each.device_bytes, "in the engine"), (each.host_bytes, "in host memory"))
    held = ", ".join(f"{human_size(size)} {where}" for size, where in copies if size)
    return f"{each.tier}{f' ({held})' if held else ''}{', pinned' if each.pinned else ''}"
