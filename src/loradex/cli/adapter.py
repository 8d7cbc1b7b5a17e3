"""`loradex adapter`: add, ls, check, promote, rollback, rm, history."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from loradex.cli.command import HOME, TARGET, command
from loradex.cli.defaults import SamplingOption, Stop, System, Template, read_defaults
from loradex.cli.errors import UsageFailed
from loradex.cli.output import Output, grid, human_count, human_size, human_time
from loradex.cli.target import Target
from loradex.core.adapter import DEFAULT_ALIAS
from loradex.core.canary import written
from loradex.errors import AdapterInvalid

if TYPE_CHECKING:
    from rich.console import RenderableType

    from loradex.client.views import AdapterView, Change, InvalidView, KindView

app = typer.Typer(
    name="adapter", help="Add, inspect, promote and remove adapters.", no_args_is_help=True, rich_markup_mode=None
)

FLAGS = (*TARGET, *HOME)

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the adapter.", show_default=False)]
Source = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE",
        help="Folder, archive or GGUF file; hf://owner/name@revision; s3://, gs:// or https:// address.",
        show_default=False,
    ),
]
Pin = Annotated[
    str, typer.Option("--sha256", metavar="HEX", help="Refuse any other digest, or archive.", show_default=False)
]
Pickle = Annotated[bool, typer.Option("--allow-pickle", help="Accept `.bin` weights.")]
Base = Annotated[
    Path | None,
    typer.Option("--base", metavar="DIR", help="Folder of the base model; work without a server.", show_default=False),
]
Mode = Annotated[
    str,
    typer.Option("--mode", metavar="MODE", help="drain: running answers end as they began. immediate: they switch."),
]


@command(
    app,
    "add",
    flags=FLAGS,
    hidden_alias="load",
    examples=(
        "loradex adapter add medical ./medical-lora",
        "loradex adapter add medical hf://acme/medical-lora@v4 --canary 10",
        "loradex adapter add medical ./medical-lora --upload --url http://gpu-box:8000",
    ),
)
def add(
    out: Output,
    target: Target,
    name: Name,
    source: Source,
    base: Base = None,
    mode: Mode = "drain",
    replace: Annotated[bool, typer.Option(help="Let a new version take over a name that exists.")] = True,
    allow_pickle: Pickle = False,
    canary: Annotated[
        float | None, typer.Option("--canary", metavar="PERCENT", help="Serve it to part of the requests only.")
    ] = None,
    sha256: Pin = "",
    upload: Annotated[bool, typer.Option("--upload", help="Send the files, to a server that cannot see them.")] = False,
    system: System = None,
    chat_template: Template = None,
    sampling: SamplingOption = None,
    stop: Stop = None,
    wait: Annotated[bool, typer.Option(help="Wait until it is served; else it goes on as a job.")] = True,
) -> None:
    """Check an adapter and serve it under a name, as a new version where the name exists."""
    how: dict[str, Any] = {"mode": mode, "replace": replace, "allow_pickle": allow_pickle}
    how |= {"canary": canary, "sha256": sha256}
    how |= {"defaults": read_defaults(system, chat_template, sampling, stop) or None}
    if not wait:
        job = target.served().begin_add(name, source if upload else target.place(source), upload=upload, **how)
        out.data(job, f"begun as job {job.id}", quiet=[job.id])
        return out.next(f"loradex jobs show {job.id} --wait")
    with out.progress() as progress:
        if upload:
            change = target.served().upload(name, Path(source), told=progress, **how)
        else:
            change = target.adapters(base).add(name, target.place(source), told=progress, **how)
    if canary is None:
        _show_change(out, change)
    else:
        ref = f"{name}@{change.version}"
        out.data(change, f"{ref} answers {canary:g} % of the requests for {name}", quiet=[ref])
    end = f"loradex adapter promote {name} {change.version}" if canary is not None else f'loradex run {name} "..."'
    out.next(end)


@command(app, "ls", flags=FLAGS, examples=("loradex adapter ls", "loradex adapter ls --json"), hidden_alias="list")
def ls(out: Output, target: Target) -> None:
    """List the adapters."""
    verbs = target.adapters()
    found, invalid = verbs.list(), verbs.invalid()
    out.table(
        ("name", "version", "aliases", "rank", "size", "resident", "running"),
        [_row(each) for each in found],
        {"adapters": found, "invalid": invalid},
        [each.name for each in found],
        empty="No adapters yet. Add one: loradex adapter add NAME PATH",
    )
    say_invalid(out, invalid)


def say_invalid(out: Output, invalid: Sequence[InvalidView]) -> None:
    """Tell a human what in watched folders cannot be served, and why."""
    for each in invalid:
        out.say(f"invalid: {each.name} ({each.path})", style="yellow")
        for reason in each.problems or (each.message,):
            out.say(f"  {reason}")


@command(
    app, "check", flags=FLAGS, examples=("loradex adapter check ./medical-lora", "loradex adapter check ./x --base ./b")
)
def check(out: Output, target: Target, source: Source, base: Base = None, allow_pickle: Pickle = False) -> None:
    """Say whether an adapter fits the base model, with every problem and its fix. Nothing is stored."""
    with out.progress() as progress:
        progress("check", 0.0)
        report = target.adapters(base, progress).check(target.place(source), allow_pickle=allow_pickle)
    if not report.ok and out.mode != "json":
        raise AdapterInvalid(f"The adapter at `{source}` cannot be served", report.problems)
    load = "unknown before the first one" if report.load_seconds is None else f"about {human_time(report.load_seconds)}"
    facts = [
        ("fits", "yes"),
        ("format", report.format),
        ("rank", str(report.rank)),
        ("weights", f"{human_count(report.parameters)}, {human_size(report.bytes)}"),
        ("memory", f"{human_size(report.device_bytes)} in the engine"),
        ("load", load),
        ("trained on", report.base_model or "unknown"),
        ("digest", report.digest),
        *(("warning", str(each)) for each in report.warnings),
    ]
    out.data(report, [grid(("", ""), facts), "", _shapes(report.kinds)], quiet=[report.digest])
    if not report.ok:
        raise typer.Exit(1)


@command(
    app,
    "promote",
    flags=FLAGS,
    examples=("loradex adapter promote medical 3", "loradex adapter promote medical 4 --alias canary"),
)
def promote(
    out: Output,
    target: Target,
    name: Name,
    version: Annotated[int, typer.Argument(metavar="VERSION", help="Number of the version.", show_default=False)],
    alias: Annotated[str, typer.Option("--alias", metavar="ALIAS", help="The alias to move.")] = DEFAULT_ALIAS,
    mode: Mode = "drain",
) -> None:
    """Point an alias at a version; the alias `default` is what the bare name means."""
    _show_change(out, target.adapters().promote(name, version, alias, mode=mode), alias)


@command(
    app,
    "rollback",
    flags=FLAGS,
    examples=("loradex adapter rollback medical", "loradex adapter rollback medical --mode immediate"),
)
def rollback(out: Output, target: Target, name: Name, mode: Mode = "drain") -> None:
    """Go back to the version that the name meant before the last change."""
    _show_change(out, target.adapters().rollback(name, mode=mode))


@command(
    app,
    "rm",
    flags=FLAGS,
    examples=("loradex adapter rm medical --version 2", "loradex adapter rm medical --alias canary"),
    hidden_alias="remove",
)
def rm(
    out: Output,
    target: Target,
    name: Name,
    version: Annotated[int | None, typer.Option("--version", metavar="N", help="Only this version.")] = None,
    alias: Annotated[str, typer.Option("--alias", metavar="ALIAS", help="Only this alias; versions stay.")] = "",
) -> None:
    """Remove an adapter with all its versions, or one version or alias."""
    if alias and version is not None:
        raise UsageFailed("Give either --version or --alias", hint=f"loradex adapter rm {name} --alias {alias}")
    if alias:
        target.adapters().remove_alias(name, alias)
    else:
        target.adapters().remove(name, version)
    removed = f"{name}@{alias or version}" if alias or version is not None else name
    out.data({"removed": removed}, f"removed {removed}", quiet=[removed])


@command(
    app, "history", flags=FLAGS, examples=("loradex adapter history medical", "loradex adapter history medical --json")
)
def history(out: Output, target: Target, name: Name) -> None:
    """List what was changed, when and by whom."""
    found = target.adapters().history(name)
    rows = [
        (each.when[:19].replace("T", " "), each.who, each.action, each.alias, _step(each), each.note) for each in found
    ]
    columns = ("when (UTC)", "who", "what", "alias", "version", "note")
    out.table(columns, rows, {"history": found}, [each.action for each in found])


def _step(entry: object) -> str:
    before, after = getattr(entry, "from_version", None), getattr(entry, "to_version", None)
    return f"{before or '-'} -> {after or '-'}"


def _shapes(kinds: Sequence[KindView]) -> RenderableType:
    columns = ("module", "count", "inputs", "outputs", "rank", "scaling")
    return grid(columns, [(*map(str, _sizes(each)), _all(each.ranks), _all(each.scalings)) for each in kinds])


def _sizes(kind: KindView) -> tuple[object, ...]:
    return kind.name, kind.count, kind.in_features, kind.out_features


def _all(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values[:4]) + (", ..." if len(values) > 4 else "")


def _row(adapter: AdapterView) -> tuple[object, ...]:
    now = adapter.current_version
    aliases = ", ".join(f"{alias}={at}" for alias, at in sorted(adapter.aliases.items()))
    if adapter.canary:
        aliases = ", ".join(filter(None, (aliases, "canary " + written(adapter.canary))))
    if now is None:
        return (adapter.name, "-", aliases, "", "", "", "")
    state = "yes" if now.resident else "" if adapter.enabled else "disabled"
    if not now.digest:  # a server of another kind, which tells no more
        return (adapter.name, "-", aliases, "", "", state, "")
    return (adapter.name, now.version, aliases, now.rank, human_size(now.bytes), state, now.running)


def _show_change(out: Output, change: Change, alias: str = DEFAULT_ALIAS) -> None:
    if not change.digest:
        out.data(change, f"{change.name} is loaded", quiet=[change.name])
        for note in change.notes:
            out.say(note, style="yellow")
        return
    ref = f"{change.name}@{change.version}"
    said = f"{change.name if alias == DEFAULT_ALIAS else f'{change.name}@{alias}'} is now version {change.version}"
    if change.previous is not None:
        said += f" (before: {change.previous.version})"
    if change.load_seconds:
        said += f", loaded in {human_time(change.load_seconds)}, switched in {human_time(change.switch_seconds)}"
    out.data(change, said, quiet=[ref])
