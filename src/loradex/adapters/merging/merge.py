"""Whole adapters merged into one: read, combined linear by linear, checked, written."""

from __future__ import annotations

import shutil
import tempfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from loradex.adapters.check import check_folder
from loradex.adapters.formats.convert import read_lora
from loradex.adapters.formats.lora import Lora, Pair
from loradex.adapters.formats.peft import write_peft
from loradex.adapters.listing import listed
from loradex.adapters.merging.pairs import merged_pair
from loradex.adapters.merging.recipe import Recipe
from loradex.core.model import ModelInfo
from loradex.errors import AdapterInvalid, Conflict, InvalidRequest, Problem

ANY_RANK = 1 << 15
"""Which rank can be served is for the server to say."""

Told = Callable[[float], None]


@dataclass(frozen=True, slots=True)
class Member:
    """One adapter that goes into a merge: what it is called, where its files are, and its weight."""

    name: str
    path: Path
    weight: float


@dataclass(frozen=True, slots=True)
class Merged:
    """What a merge made.

    Attributes:
        path: the folder that was written.
        modules: number of low-rank pairs.
        rank: the largest among them.
        parameters: number of their weights.
        bytes: of the weights file.
        notes: what the user should know, such as members that name different bases.
    """

    path: Path
    modules: int
    rank: int
    parameters: int
    bytes: int
    notes: tuple[str, ...]


def merge(
    members: Sequence[Member],
    recipe: Recipe,
    out: Path,
    base: ModelInfo | None = None,
    told: Told = lambda share: None,
) -> Merged:
    """Make one PEFT adapter of several, in a folder `out` that must not be there yet.

    A linear that only some of them adapt is combined from those. `base`, where it is given, reads formats that need it
    and checks the result; `told` is told how much is done, from 0 to 1.

    Raises:
        InvalidRequest: there are fewer than two members.
        FilesNotFound: there is no adapter at a member's path.
        AdapterInvalid: a member is not only low-rank pairs, they do not go together, or the result cannot be served.
        Conflict: `out` exists.
        OSError: the disk refuses.
    """
    if len(members) < 2:
        raise InvalidRequest("A merge takes two adapters or more", hint="Name them with weights: medical=0.7 legal=0.3")
    if out.exists():
        raise Conflict(f"{out} exists already", hint="Name a folder that is not there yet")
    loras = [read_lora(member.path, base) for member in members]
    lora = merged(members, loras, recipe, told)
    out.parent.mkdir(parents=True, exist_ok=True)
    # Beside its place, so that nothing half-written ever lies there.
    temporary = Path(tempfile.mkdtemp(prefix=f".{out.name[:100]}.", dir=out.parent))
    try:
        write_peft(lora, temporary)
        if base is not None:
            check_folder(temporary, base, ANY_RANK).raise_if_bad(out.name)
        temporary.chmod(0o755)  # mkdtemp keeps it to its owner
        temporary.rename(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    tensors = [tensor for pair in lora.pairs.values() for tensor in (pair.a, pair.b)]
    return Merged(
        out,
        len(lora.pairs),
        max(pair.rank for pair in lora.pairs.values()),
        sum(tensor.values.size for tensor in tensors),
        sum(tensor.nbytes for tensor in tensors),
        tuple(_notes(members, loras)),
    )


def merged(members: Sequence[Member], loras: Sequence[Lora], recipe: Recipe, told: Told = lambda share: None) -> Lora:
    """Combine what was read of the members, in their order.

    Raises:
        AdapterInvalid: they do not go together, or give what is no number; lists every reason.
    """
    modules = sorted({module for lora in loras for module in lora.pairs})
    problems = [*_options(members, loras), *_misfits(members, loras, modules, recipe)]
    if problems:
        raise AdapterInvalid("The adapters cannot be merged", problems)
    rank = recipe.rank or max(pair.rank for lora in loras for pair in lora.pairs.values())
    pairs: dict[str, Pair] = {}
    for done, module in enumerate(modules):
        weighted = [
            (lora.pairs[module], member.weight)
            for member, lora in zip(members, loras, strict=True)
            if module in lora.pairs
        ]
        pairs[module] = merged_pair(weighted, recipe, rank, generator(recipe.seed, module))
        told((done + 1) / len(modules))
    if bad := [module for module, pair in pairs.items() if not _finite(pair)]:
        what = f"The result is not finite in {len(bad)} modules: {listed(bad)}"
        fix = "Check each member with `loradex adapter check`, and take smaller weights"
        raise AdapterInvalid("The adapters cannot be merged", [Problem("not_finite", what, fix)])
    return Lora(pairs, next((lora.base_model for lora in loras if lora.base_model), None))


def generator(seed: int, module: str) -> np.random.Generator:
    """Return the random numbers of a module, which do not depend on what other modules there are."""
    return np.random.default_rng((seed, zlib.crc32(module.encode())))


def _finite(pair: Pair) -> bool:
    return all(bool(np.isfinite(tensor.widened()).all()) for tensor in (pair.a, pair.b))


def _options(members: Sequence[Member], loras: Sequence[Lora]) -> list[Problem]:
    """Return a problem for each member that is more than its pairs."""
    return [
        Problem("unsupported_option", f"`{member.name}` sets {listed(sorted(lora.options))}", "Leave it out")
        for member, lora in zip(members, loras, strict=True)
        if lora.options
    ]


def _misfits(members: Sequence[Member], loras: Sequence[Lora], modules: Sequence[str], recipe: Recipe) -> list[Problem]:
    shapes, ranks = [], []
    for module in modules:
        pairs = {
            member.name: lora.pairs[module] for member, lora in zip(members, loras, strict=True) if module in lora.pairs
        }
        if len({(pair.a.shape[1], pair.b.shape[0]) for pair in pairs.values()}) > 1:
            shapes.append(module)
        if recipe.by_factor and len({pair.rank for pair in pairs.values()}) > 1:
            ranks.append((module, {name: pair.rank for name, pair in pairs.items()}))
    problems = []
    if shapes:
        what = f"They have other shapes in {len(shapes)} modules, so they are of different bases: {listed(shapes)}"
        problems.append(Problem("shape_mismatch", what, "Merge adapters of one base"))
    if ranks:
        module, found = ranks[0]
        said = ", ".join(f"`{name}` {rank}" for name, rank in found.items())
        what = f"`{recipe.method}` takes equal ranks; in {len(ranks)} modules they differ, such as `{module}`: {said}"
        problems.append(Problem("rank_mismatch", what, "Take `cat`, or a method that ends in `svd`"))
    return problems


def _notes(members: Sequence[Member], loras: Sequence[Lora]) -> list[str]:
    named: Mapping[str, str] = {
        lora.base_model: member.name for member, lora in zip(members, loras, strict=True) if lora.base_model
    }
    if len(named) < 2:
        return []
    said = ", ".join(f"`{name}` {base}" for base, name in named.items())
    return [f"they name different bases: {said}"]
