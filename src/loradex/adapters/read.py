"""An adapter's structure: which linears it adapts, with which rank and scaling."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from loradex.adapters.adapter import Adapter, LoraLayer
from loradex.adapters.config import LoraConfig, read_config
from loradex.adapters.digest import digest_files
from loradex.adapters.extras import Extras, read_extras
from loradex.adapters.files import MAX_WEIGHTS_BYTES, AdapterFiles, find_files
from loradex.adapters.header import Header, read_header
from loradex.adapters.keys import Key, canonical, parse_key, stacked
from loradex.adapters.listing import listed
from loradex.adapters.options import EXPERTS
from loradex.adapters.tokenizer import read_vocabulary, trains_tokens
from loradex.adapters.values import DTYPES
from loradex.adapters.vocabulary import Vocabulary
from loradex.errors import AdapterInvalid, FilesNotFound, Problem


@dataclass(frozen=True, slots=True)
class Examined:
    """All that could be understood of an adapter, and every reason why that is not the whole of it.

    `header` is None where the weights could not be read; `adapter` then has no layers.
    """

    adapter: Adapter
    config: LoraConfig | None
    header: Header | None
    problems: tuple[Problem, ...]


def read_adapter(folder: Path) -> Adapter:
    """Read the structure of a PEFT adapter; no tensor is read beyond its place and shape.

    Raises:
        FilesNotFound: there is no adapter in the folder.
        AdapterInvalid: it cannot be served as it is; lists every reason.
    """
    found = examine(find_files(folder))
    if found.problems:
        raise AdapterInvalid(f"The adapter at {folder} cannot be served", found.problems)
    return found.adapter


def examine(files: AdapterFiles, digest: str | None = None) -> Examined:
    """Read the structure of a PEFT adapter as far as it can be understood.

    `digest` is given by who has just made it; else all the bytes are read for it.

    Raises:
        FilesNotFound: a file is gone or cannot be read.
    """
    config, found = read_config(files.config)
    problems = list(found)
    header, size = None, _size(files.weights)
    if files.pickled:
        problems.append(_pickled(files.weights.name))
    elif size > MAX_WEIGHTS_BYTES:
        what = f"{files.weights.name} has {size} bytes, above the limit of {MAX_WEIGHTS_BYTES >> 30} GiB"
        problems.append(Problem("too_large", what, "Give the adapter alone, without weights of its base"))
    else:
        try:
            header = read_header(files.weights)
        except AdapterInvalid as error:
            problems += error.problems
    layers: dict[str, LoraLayer] = {}
    extras, vocabulary = Extras(), None
    if header is not None:
        layers, found_in_tensors = _layers(header, config)
        extras, found_beside = read_extras(header, config, layers)
        problems += found_in_tensors + found_beside
        vocabulary, found_in_tokenizer = _vocabulary(files, header)
        problems += found_in_tokenizer
        added = vocabulary.encoded() if vocabulary else b""
        digest = digest or digest_files(files.config, files.weights, vocabulary=added)
    adapter = Adapter(
        digest=digest or "",
        path=files.folder,
        layers=layers,
        rank=max((layer.rank for layer in layers.values()), default=0),
        parameters=sum(layer.parameters for layer in layers.values()) + extras.parameters,
        bytes=size,
        base_model=config.base_model if config else None,
        extras=extras.tensors,
        tokens=extras.tokens,
        absent=extras.absent,
        invocation=config.invocation if config else (),
        vocabulary=vocabulary,
    )
    return Examined(adapter, config, header, tuple(problems))


def unreadable(folder: Path, problems: tuple[Problem, ...]) -> Examined:
    """Return what is known of an adapter that could not even be brought into PEFT's form: why not."""
    return Examined(Adapter("", folder, {}, 0, 0, 0, None), None, None, problems)


def _vocabulary(files: AdapterFiles, header: Header) -> tuple[Vocabulary | None, list[Problem]]:
    if not trains_tokens(header.tensors):
        return None, []
    try:
        return read_vocabulary(files.tokenizer), []
    except AdapterInvalid as error:
        return None, list(error.problems)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise FilesNotFound(f"{path} cannot be read: {error.strerror or error}") from error


def _pickled(name: str) -> Problem:
    what = f"{name} is a Python pickle, which can run code when it is opened; there is no adapter_model.safetensors"
    fix = "Save it again with `save_pretrained(..., safe_serialization=True)`, or allow it with `--allow-pickle`"
    return Problem("pickle", what, fix)


def _layers(header: Header, config: LoraConfig | None) -> tuple[dict[str, LoraLayer], list[Problem]]:
    pairs: dict[str, dict[str, tuple[Key, str]]] = {}
    double, adapters = [], set()
    keys = {name: key for name in sorted(header.tensors) if (key := parse_key(name)) is not None}
    experts = _experts(keys, config)
    for name, key in keys.items():
        key = replace(key, module=experts.get(key.module, key.module))
        adapters.add(key.adapter)
        pair = pairs.setdefault(canonical(key.module), {})
        if key.side in pair:
            double.append(name)
        else:
            pair[key.side] = key, name
    problems = []
    if len(adapters) > 1:
        named = listed(sorted(name or "(none)" for name in adapters))
        problems.append(Problem("many_adapters", f"The file holds several adapters: {named}", "Save one to a file"))
    if double and len(adapters) == 1:
        problems.append(Problem("duplicate", f"Tensors mean the same module: {listed(double)}", "Save it again"))
    problems += _halves(pairs) + _dtypes(header)
    layers, wrong = _complete(header, pairs, config, frozenset(experts.values()))
    return layers, problems + wrong


def _experts(keys: Mapping[str, Key], config: LoraConfig | None) -> dict[str, str]:
    targets = config.target_parameters if config is not None else ()
    return stacked({key.module for key in keys.values()}, targets, EXPERTS) if targets else {}


def _halves(pairs: Mapping[str, Mapping[str, object]]) -> list[Problem]:
    problems = []
    for side, other in (("A", "B"), ("B", "A")):
        if lonely := [module for module, pair in pairs.items() if side in pair and other not in pair]:
            what = f"lora_{other} is missing beside lora_{side} of {listed(lonely)}"
            problems.append(Problem("missing_half", what, "Save the adapter again; half a pair has no effect"))
    return problems


def _dtypes(header: Header) -> list[Problem]:
    names: dict[str, list[str]] = {}
    for name, info in sorted(header.tensors.items()):
        if info.dtype not in DTYPES:
            names.setdefault(info.dtype, []).append(name)
    fix = "Save the adapter in float32, bfloat16 or float16"
    return [
        Problem("unsupported_dtype", f"{len(found)} tensors are of dtype {dtype}: {listed(found)}", fix)
        for dtype, found in names.items()
    ]


def _complete(
    header: Header,
    pairs: Mapping[str, Mapping[str, tuple[Key, str]]],
    config: LoraConfig | None,
    experts: frozenset[str],
) -> tuple[dict[str, LoraLayer], list[Problem]]:
    layers: dict[str, LoraLayer] = {}
    shapes, ranks = [], []
    for module, pair in sorted(pairs.items()):
        if len(pair) < 2:
            continue
        (key, name_a), (_, name_b) = pair["A"], pair["B"]
        a, b = header.tensors[name_a].shape, header.tensors[name_b].shape
        if len(a) != 2 or len(b) != 2 or a[0] != b[1] or 0 in a + b:
            shapes.append((module, f"A {list(a)} and B {list(b)}"))
            continue
        # The patterns were written for the path that the tensors have.
        rank = config.rank(key.module) if config is not None else a[0]
        count, rest = divmod(a[0], rank) if key.module in experts else (0, rank != a[0])
        if rest:
            ranks.append((module, f"{a[0]} where adapter_config.json says {rank}"))
        scaling = config.scaling(key.module) if config else 1.0
        own = rank if count else a[0]
        layers[module] = LoraLayer(module, own, scaling, a[1], b[0], name_a, name_b, key.embedding, count)
    problems = []
    if shapes:
        what = f"Pairs do not fit together: {shapes[0][1]} at {listed(module for module, _ in shapes)}"
        fix = "A must be [rank, inputs] and B [outputs, rank]; save the adapter again with PEFT"
        problems.append(Problem("bad_pair", what, fix))
    if ranks:
        what = f"Rank is {ranks[0][1]}, at {listed(module for module, _ in ranks)}"
        fix = "Correct `r` or `rank_pattern`: the scaling depends on them"
        problems.append(Problem("rank_mismatch", what, fix))
    return layers, problems
