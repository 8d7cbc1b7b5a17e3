"""An input file of TensorRT-Edge-LLM: what holds for all of its requests, and the requests."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from loradex.errors import FilesNotFound, InvalidRequest, LoradexError
from loradex.llm.edge.fields import whole
from loradex.llm.edge.request import KNOWN, Refused, Request, read_request, read_turns

MAX_BATCH: Final = 16
"""What TensorRT-Edge-LLM takes; here an engine's own limit counts."""

_SHAPE: Final = 'Write it like {"requests": [{"messages": [{"role": "user", "content": "..."}]}]}'
_SAMPLING: Final = ("temperature", "top_p", "top_k", "max_generate_length", "logit_bias", "num_logprobs")
_READ: Final = frozenset(
    {
        *("batch_size", "requests", "available_lora_weights", *_SAMPLING),
        *("apply_chat_template", "add_generation_prompt", "enable_thinking"),
    }
)
_NOTHING: Final = frozenset(
    {
        *("context_cache_lookup_policy", "context_cache_commit_policy", "save_system_prompt_kv_cache"),
        *("disable_spec_decode", "diffusion_config", "streaming"),
    }
)
"""Fields that are taken and change no answer: the prefix cache is always there, and the others are for other models."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says beside the file; what it names wins.

    Attributes:
        adapters: name to path. Alone, an adapter answers the requests that name none.
        batch_size, max_generate_length, num_logprobs: as in the file.
        strict: refuse what TensorRT-Edge-LLM refuses, in its words.
    """

    adapters: Mapping[str, str] = field(default_factory=dict)
    batch_size: int | None = None
    max_generate_length: int | None = None
    num_logprobs: int | None = None
    strict: bool = False


@dataclass(frozen=True, slots=True)
class InputFile:
    """What was read.

    Attributes:
        name: of the file, as it was given.
        batch_size: requests computed together.
        requests: in order; those that cannot be asked among them.
        adapters: name to path, of the file and the command line.
        notes: what in the file has no effect.
    """

    name: str
    batch_size: int
    requests: tuple[Request | Refused, ...]
    adapters: Mapping[str, str]
    notes: tuple[str, ...]


def read_input(path: Path, options: Options) -> InputFile:
    """Read a file.

    Raises:
        FilesNotFound: there is none.
        InvalidRequest: it is not JSON, or wrong as a whole; with `options.strict`, also where one request is wrong.
    """
    data = _object(path)
    given = {"batch_size": options.batch_size, "max_generate_length": options.max_generate_length}
    given |= {"num_logprobs": options.num_logprobs}
    common = data | {name: value for name, value in given.items() if value is not None}
    listed = common.get("requests")
    if not isinstance(listed, list):
        raise InvalidRequest("'requests' array not found in input file", hint=_SHAPE, param="requests")
    batch = _batch_size(common, strict=options.strict)
    adapters, broken = _adapters(path, common, options)
    only = next(iter(options.adapters)) if len(options.adapters) == 1 else None
    requests = tuple(_request(each, common, only, adapters, broken, strict=options.strict) for each in listed)
    if options.strict:
        _check_batches(requests, batch)
    return InputFile(str(path), batch, requests, adapters, _notes(data, listed, requests, options))


def _object(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise FilesNotFound(f"{path} cannot be read: {error.strerror or error}", hint="Check the path") from error
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"{path} is not JSON: {error}", hint="Correct that place") from error
    if not isinstance(data, dict):
        raise InvalidRequest("'requests' array not found in input file", hint=_SHAPE, param="requests")
    return data


def _batch_size(common: Mapping[str, Any], *, strict: bool) -> int:
    size = common.get("batch_size", 1)
    if isinstance(size, int) and not isinstance(size, bool) and size < 1:
        hint = "Give 1 or more"
        raise InvalidRequest(f"Invalid batch_size value: {size} (must be positive)", hint=hint, param="batch_size")
    if strict and isinstance(size, int) and size > MAX_BATCH:
        raise InvalidRequest(f"Invalid batch_size value: {size} (must be at most {MAX_BATCH})", param="batch_size")
    return whole(common, "batch_size", 1, least=1)


def _adapters(path: Path, common: Mapping[str, Any], options: Options) -> tuple[dict[str, str], set[str]]:
    """Return the adapters by name, and the names whose path is none. Paths are relative to here, or to the file."""
    given = common.get("available_lora_weights") or {}
    if not isinstance(given, Mapping):
        raise InvalidRequest("`available_lora_weights` is no object", hint='Write {"name": "path"}')
    broken = {name for name, where in given.items() if not isinstance(where, str)}
    if broken and options.strict:
        raise _not_a_path(min(broken))
    found = {name: _beside(path, where) for name, where in given.items() if name not in broken}
    return found | dict(options.adapters), broken - options.adapters.keys()


def _beside(path: Path, where: str) -> str:
    beside = path.parent / where
    return str(beside) if not Path(where).exists() and beside.exists() else where


def _request(
    given: Any,
    common: Mapping[str, Any],
    only: str | None,
    adapters: Mapping[str, str],
    broken: set[str],
    *,
    strict: bool,
) -> Request | Refused:
    try:
        request = read_request(given, common, only, strict=strict)
        if request.adapter in broken:
            raise _not_a_path(str(request.adapter))
        if request.adapter is not None and request.adapter not in adapters:
            known = ", ".join(sorted(adapters)) or "none"
            raise InvalidRequest(
                f"LoRA name '{request.adapter}' not found in available_lora_weights",
                hint=f"It has: {known}",
                param="lora_name",
            )
    except LoradexError as error:
        if strict:
            raise
        try:
            return Refused(read_turns(given, strict=False), error)
        except LoradexError:
            return Refused((), error)
    return request


def _not_a_path(name: str) -> InvalidRequest:
    return InvalidRequest(f"LoRA weight path for '{name}' must be a string", hint="", param="available_lora_weights")


def _check_batches(requests: Sequence[Request | Refused], size: int) -> None:
    asked = [each for each in requests if isinstance(each, Request)]
    for first in range(0, len(asked), size):
        if len({each.adapter for each in asked[first : first + size]}) > 1:
            raise InvalidRequest(
                "Different LoRA weights within the same batch are not supported",
                hint="Leave `--strict` out: here they are mixed",
                param="lora_name",
            )


def _notes(
    data: Mapping[str, Any], listed: Sequence[Any], requests: Sequence[Request | Refused], options: Options
) -> tuple[str, ...]:
    objects = [each for each in listed if isinstance(each, Mapping)]
    fields = {name for name in data if name not in _READ} | {name for each in objects for name in each} - KNOWN
    unused = sorted((fields | {name for each in objects for name in each if name in _NOTHING}) & _NOTHING)
    unknown = sorted(fields - _NOTHING)
    notes = [f"fields without effect: {', '.join(unused)}"] if unused else []
    notes += [f"unknown fields, which are not read: {', '.join(unknown)}"] if unknown else []
    if options.strict and any("system_prompt" in each for each in objects):
        notes.append("`system_prompt` is not read with --strict: TensorRT-Edge-LLM has a system message for it")
    silent = sum(isinstance(each, Request) and each.adapter is None for each in requests)
    if len(options.adapters) > 1 and silent:
        notes.append(f"{silent} requests name no adapter (`lora_name`) and are answered by the base")
    return tuple(notes)
