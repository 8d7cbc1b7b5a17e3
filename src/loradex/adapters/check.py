"""Does an adapter fit a base model? Every reason why not, each with its fix.

Problems have these codes. The file itself: `pickle`, `html`, `git_lfs_pointer`, `gguf`, `empty_file`, `truncated`,
`too_large`, `not_safetensors`, `bad_header`. Its configuration: `bad_config`, `unsupported_type`, `unsupported_option`.
Its tensors: `unsupported_tensors`, `unsupported_dtype`, `many_adapters`, `duplicate`, `missing_half`, `bad_pair`,
`missing_tensors`, `bad_extra`, `rank_mismatch`, `not_finite`, `changed`. Its base: `rank_too_large`, `no_match`,
`unknown_modules`, `task_head`, `vocabulary`, `shape_mismatch`, `other_base`. Beside it: `bad_tokenizer`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from loradex.adapters.adapter import Adapter, LoraLayer
from loradex.adapters.check_extras import check_extras, resized_vocabulary
from loradex.adapters.files import find_files
from loradex.adapters.header import read_header
from loradex.adapters.keys import kind
from loradex.adapters.listing import listed, printable
from loradex.adapters.read import Examined, examine
from loradex.adapters.values import not_finite
from loradex.core.model import LinearShape, ModelInfo
from loradex.errors import AdapterInvalid, Problem


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What a check found.

    Attributes:
        problems: reasons why the adapter cannot be served; empty when it can.
        warnings: what the user should know although it can be served.
        rank: the largest rank in it, 0 where none could be read.
        modules: the kinds of modules it adapts or brings anew, such as `q_proj` and `norm`, sorted.
        parameters: number of weights.
        bytes: size of the weights file.
        base_model: what its configuration calls the base, or None.
        digest: SHA-256 of its content, in hexadecimal.
        format: in what it came: `peft`, `edge`, `gguf` or `nemo`.
        adapter: what was read of it.
    """

    problems: tuple[Problem, ...]
    warnings: tuple[Problem, ...]
    rank: int
    modules: tuple[str, ...]
    parameters: int
    bytes: int
    base_model: str | None
    digest: str
    format: str = "peft"
    adapter: Adapter | None = field(default=None, compare=False, repr=False)

    @property
    def ok(self) -> bool:
        """Whether the adapter can be served."""
        return not self.problems

    def raise_if_bad(self, name: str) -> None:
        """Do nothing for a good adapter.

        Raises:
            AdapterInvalid: with every problem.
        """
        if self.problems:
            raise AdapterInvalid(f"Adapter `{name}` cannot be served", self.problems)


def check(adapter: Adapter, base: ModelInfo, max_rank: int, *, strict_base: bool = False) -> CheckReport:
    """Check that an adapter fits a base model, and read all its weights for values that are not numbers.

    An adapter that names another base is warned of, or refused under `strict_base`; shapes that differ are always
    refused.

    Raises:
        FilesNotFound, AdapterInvalid: the weights file is gone or no longer what was read.
    """
    problems = _ranks(adapter, max_rank) + _modules(adapter, base) + _shapes(adapter, base)
    problems += check_extras(adapter, base) + _values(adapter)
    other = _other_base(adapter, base)
    return _report(adapter, problems + (other if strict_base else []), [] if strict_base else other)


def check_folder(folder: Path, base: ModelInfo, max_rank: int, *, strict_base: bool = False) -> CheckReport:
    """Read and check the adapter in a folder.

    Raises:
        FilesNotFound: there is no adapter in the folder.
    """
    return check_examined(examine(find_files(folder)), base, max_rank, strict_base=strict_base)


def check_examined(found: Examined, base: ModelInfo, max_rank: int, *, strict_base: bool = False) -> CheckReport:
    """Check what was read: the report has every problem, those of the files themselves first.

    Raises:
        FilesNotFound: the files are gone.
    """
    if found.header is None:
        return _report(found.adapter, list(found.problems), [])
    report = check(found.adapter, base, max_rank, strict_base=strict_base)
    # Where nothing could be read, the reasons are listed already: that nothing matches is no news.
    known = bool(found.problems) and not found.adapter.layers
    fresh = [problem for problem in report.problems if not (known and problem.code == "no_match")]
    return replace(report, problems=(*found.problems, *fresh))


def _report(adapter: Adapter, problems: list[Problem], warnings: list[Problem]) -> CheckReport:
    return CheckReport(
        problems=tuple(problems),
        warnings=tuple(warnings),
        rank=adapter.rank,
        modules=tuple(sorted({kind(each) for each in (*adapter.layers, *(extra.module for extra in adapter.extras))})),
        parameters=adapter.parameters,
        bytes=adapter.bytes,
        base_model=adapter.base_model,
        digest=adapter.digest,
        adapter=adapter,
    )


def _ranks(adapter: Adapter, max_rank: int) -> list[Problem]:
    if adapter.rank <= max_rank:
        return []
    # The first sentence is vLLM's, word for word: tools look for it.
    what = f"LoRA rank {adapter.rank} is greater than max_lora_rank {max_rank}."
    return [Problem("rank_too_large", what, f"Serve with `--max-lora-rank {adapter.rank}` or more")]


def _modules(adapter: Adapter, base: ModelInfo) -> list[Problem]:
    missing = [module for module, layer in adapter.layers.items() if _target(layer, base) is None]
    if len(missing) == len(adapter.layers) and (missing or not adapter.extras):
        return [_no_match(adapter.layers, base)]
    if not missing:
        return []
    what = f"{len(missing)} adapted modules are not in the base model `{base.id}`: {listed(missing)}"
    return [Problem("unknown_modules", what, _own_base(adapter))]


def _as_wide(layer: LoraLayer, shape: LinearShape, adapter: Adapter, base: ModelInfo) -> LinearShape:
    """Return the shape of a module under the adapter, which may have token ids of its own."""
    size = adapter.vocab_size(base)
    if layer.module == base.embedding:
        return replace(shape, in_features=size)
    return replace(shape, out_features=size) if layer.module == base.head else shape


def _target(layer: LoraLayer, base: ModelInfo) -> LinearShape | None:
    if layer.experts:
        shape = base.parameters.get(layer.module, ())
        return LinearShape(shape[2], shape[1]) if shape[:1] == (layer.experts,) else None
    return base.target(layer.module) if layer.embedding == (layer.module == base.embedding) else None


def _no_match(layers: Mapping[str, LoraLayer], base: ModelInfo) -> Problem:
    here = listed(list(base.linears)[:2]) or "none"
    if not layers:
        what = f"The file holds no low-rank pair that could be served; the base model `{base.id}` has {here}"
        return Problem("no_match", what, "Give an adapter that PEFT saved")
    kinds = {kind(module) for module in layers}
    alike = [module for module in base.linears if kind(module) in kinds]
    here = listed((alike or list(base.linears))[:2]) or "none"
    what = (
        f"None of its {len(layers)} modules is in the base model `{base.id}`: "
        f"the adapter has {listed(list(layers)[:2])}, the base has {here}"
    )
    return Problem("no_match", what, "Serve the base on which it was trained, or rename its tensors")


def _shapes(adapter: Adapter, base: ModelInfo) -> list[Problem]:
    wrong: dict[tuple[str, int, int, LinearShape], list[str]] = {}
    for module, layer in adapter.layers.items():
        shape = _target(layer, base)
        own = None if shape is None else _as_wide(layer, shape, adapter, base)
        if own is not None and shape is not None and LinearShape(layer.in_features, layer.out_features) != own:
            wrong.setdefault((kind(module), layer.in_features, layer.out_features, shape), []).append(module)
    return [_misfit(adapter, base, *key, modules) for key, modules in wrong.items()]


def _misfit(
    adapter: Adapter, base: ModelInfo, name: str, inputs: int, outputs: int, shape: LinearShape, modules: list[str]
) -> Problem:
    what = (
        f"`{name}` has {inputs} inputs and {outputs} outputs; in the base model `{base.id}` it has "
        f"{shape.in_features} and {shape.out_features}"
    )
    if modules[0] in (base.embedding, base.head) and (inputs == shape.in_features or outputs == shape.out_features):
        return resized_vocabulary(what)
    what += f": the adapter belongs to another base ({len(modules)} modules, such as {listed(modules[:1])})"
    return Problem("shape_mismatch", what, _own_base(adapter))


def _own_base(adapter: Adapter) -> str:
    named = f", which it calls `{printable(adapter.base_model)}`" if adapter.base_model else ""
    return f"Serve the base on which it was trained{named}"


def _values(adapter: Adapter) -> list[Problem]:
    names = [name for layer in adapter.layers.values() for name in (layer.a, layer.b)]
    names += [extra.tensor for extra in adapter.extras]
    if not names:
        return []
    tensors = read_header(adapter.weights).tensors
    if any(name not in tensors for name in names):
        gone = [name for name in names if name not in tensors]
        changed = Problem("changed", f"The weights file changed while it was read: {listed(gone)} is gone", "Try again")
        raise AdapterInvalid(f"{adapter.weights} cannot be checked", [changed])
    bad = not_finite(adapter.weights, tensors, names)
    if not bad:
        return []
    what = f"{sum(bad.values())} weights are NaN or infinite, in {len(bad)} tensors: {listed(bad)}"
    return [Problem("not_finite", what, "Training diverged or the file is damaged: take an earlier checkpoint")]


def _other_base(adapter: Adapter, base: ModelInfo) -> list[Problem]:
    named = _last_part(adapter.base_model or "")
    if not named or named in (_last_part(base.id), _last_part(base.path)):
        return []
    what = f"It says that it was trained on `{printable(adapter.base_model or '')}`; the base model is `{base.id}`"
    return [Problem("other_base", what, "Serve that base, unless you know that they are the same weights")]


def _last_part(name: str) -> str:
    return name.replace("\\", "/").rstrip("/").rpartition("/")[2].lower()
