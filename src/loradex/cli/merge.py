"""`loradex adapter merge`: one adapter made of several."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from loradex.adapters.merging.recipe import Method, Recipe, Sign
from loradex.cli.adapter import FLAGS, Base
from loradex.cli.base import own_base
from loradex.cli.command import command
from loradex.cli.errors import UsageFailed
from loradex.cli.output import Output, grid, human_count, human_size
from loradex.cli.target import Target
from loradex.core.adapter import check_name

if TYPE_CHECKING:
    from loradex.adapters.merging.merge import Member, Merged
    from loradex.client.views import Change
    from loradex.core.model import ModelInfo
    from loradex.engine.base import Progress

EXAMPLES = (
    "loradex adapter merge medical=0.7 legal=0.3 --as both",
    "loradex adapter merge ./medical-lora ./legal-lora=0.5 --method ties --density 0.5 --out ./both",
    "loradex adapter merge medical@1=0.5 medical@2=0.5 --method svd --rank 16 --out ./between",
)


def register(app: typer.Typer) -> None:
    """Add the command to those of `loradex adapter`."""
    command(app, "merge", flags=FLAGS, examples=EXAMPLES)(merge)


def merge(
    out: Output,
    target: Target,
    adapters: Annotated[
        list[str],
        typer.Argument(
            metavar="ADAPTER[=WEIGHT]",
            help="Name here, or path (with a slash), and its weight (1).",
            show_default=False,
        ),
    ],
    method: Annotated[Method, typer.Option("--method", help="How to combine them; `cat` is the exact sum.")] = "cat",
    density: Annotated[
        float | None, typer.Option("--density", metavar="SHARE", help="Of the values that ties, dare, prune keep.")
    ] = None,
    sign: Annotated[Sign, typer.Option("--sign", help="How ties elects signs: by sum or by number.")] = "total",
    rank: Annotated[int | None, typer.Option("--rank", metavar="N", help="Of the result of methods in svd.")] = None,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Of the values that dare drops.", min=0)] = 0,
    where: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Folder to write; it must not exist yet.")
    ] = None,
    name: Annotated[
        str, typer.Option("--as", metavar="NAME", help="Serve it under this name.", show_default=False)
    ] = "",
    base: Base = None,
) -> None:
    """Make one adapter of several, offline, by the methods of PEFT's `add_weighted_adapter`.

    Names are those of the registry on this machine. The result goes to a folder, or is added as any adapter is.
    """
    if (where is None) == (not name):
        raise UsageFailed("Say where the result goes: either --out or --as", hint=EXAMPLES[0])
    recipe = Recipe(method, density, sign, rank, seed)
    members = _members(adapters, target)
    with out.progress() as progress:
        if where is not None:
            done, change = _run(members, recipe, where, _base(base, members), progress), None
        else:
            done, change = _added(target, check_name(name), members, recipe, base, progress)
    _tell(out, target, done, change)


def _run(members: Sequence[Member], recipe: Recipe, where: Path, base: ModelInfo | None, progress: Progress) -> Merged:
    from loradex.adapters.merging.merge import merge as run

    return run(members, recipe, where, base, lambda share: progress("merge", share))


def _added(
    target: Target, name: str, members: Sequence[Member], recipe: Recipe, base: Path | None, progress: Progress
) -> tuple[Merged, Change]:
    from loradex.cli.offline import Offline

    verbs = target.adapters(base, progress)
    with tempfile.TemporaryDirectory(prefix="loradex-") as folder:
        done = _run(members, recipe, Path(folder) / name, _base(base, members), progress)
        # A server may run under another user, or elsewhere: it cannot be expected to read a folder of ours.
        return done, verbs.add(name, done.path) if isinstance(verbs, Offline) else verbs.upload(name, done.path)


def _members(words: Sequence[str], target: Target) -> list[Member]:
    from loradex.adapters.merging.merge import Member

    split = [_weighed(word) for word in words]
    names = [text for text, _ in split if not _is_path(text)]
    paths = _stored(names, target) if names else {}
    return [Member(text, paths.get(text) or Path(text), weight) for text, weight in split]


def _weighed(word: str) -> tuple[str, float]:
    text, equals, weight = word.rpartition("=")
    if not equals:
        return word, 1.0
    try:
        value = float(weight)
    except ValueError:
        value = math.nan
    if not text or not math.isfinite(value):
        raise UsageFailed(f"{word!r} is not ADAPTER=WEIGHT", hint="Write it like medical=0.7 legal=0.3")
    return text, value


def _is_path(text: str) -> bool:
    return "/" in text or "\\" in text


def _stored(names: Sequence[str], target: Target) -> dict[str, Path]:
    from loradex.registry.registry import Registry

    with Registry(target.settings.home) as registry:
        return {name: registry.adapter(registry.resolve(name).digest).path for name in names}


def _base(given: Path | None, members: Sequence[Member]) -> ModelInfo | None:
    from loradex.adapters.base_model import read_model_info

    folder = given or next(filter(None, (own_base(member.path) for member in members)), None)
    return read_model_info(folder) if folder is not None else None


def _tell(out: Output, target: Target, done: Merged, change: Change | None) -> None:
    facts = [
        ("modules", str(done.modules)),
        ("rank", str(done.rank)),
        ("weights", f"{human_count(done.parameters)}, {human_size(done.bytes)}"),
    ]
    notes = list(done.notes)
    if done.rank > target.settings.engine.max_lora_rank:
        notes.append(f"serve it with `--max-lora-rank {done.rank}`, or merge with `--method svd`")
    if change is None:
        facts.append(("written", str(done.path)))
        value, quiet = asdict(done) | {"notes": notes}, str(done.path)
    else:
        quiet = f"{change.name}@{change.version}"
        facts.append(("served as", quiet))
        value = asdict(change) | {"rank": done.rank, "modules": done.modules, "notes": notes}
    out.data(value, grid(("", ""), [*facts, *(("note", note) for note in notes)]), quiet=[quiet])
