"""TensorRT-LLM's benchmark datasets: one JSON object a line, as its `prepare_dataset` writes them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loradex.bench.workload import Request
from loradex.errors import ConfigInvalid, FilesNotFound

_SHAPE = '{"task_id": 0, "prompt" or "input_ids": ..., "output_tokens": 32, "lora_request": {...}}'


@dataclass(frozen=True, slots=True)
class Place:
    """An adapter of a dataset: what it is called, and where it lies."""

    name: str
    path: str


@dataclass(frozen=True, slots=True)
class Dataset:
    """Requests, all to come at once, and the adapters that they ask for by number."""

    requests: tuple[Request, ...]
    adapters: tuple[Place, ...]


def read_dataset(path: Path, limit: int = 0) -> Dataset:
    """Read a dataset; its first `limit` lines where that is not 0. Empty lines do not count.

    Raises:
        FilesNotFound: there is no such file.
        ConfigInvalid: a line is none of a dataset, with its number; or there is none at all.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise FilesNotFound(f"The dataset {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigInvalid(f"The dataset {path} is not UTF-8: {error}") from error
    found = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    adapters: dict[Place, int] = {}
    requests = []
    for index, (number, line) in enumerate(found[: limit or None]):
        where = f"{path}, line {number}"
        row = _row(line, where)
        place = _place(row.get("lora_request"), where)
        adapter = None if place is None else adapters.setdefault(place, len(adapters))
        tokens, text = _prompt(row, where)
        requests.append(Request(index, adapter, tokens, _output(row, where), text=text))
    if not requests:
        raise ConfigInvalid(f"The dataset {path} is empty", hint=f"Each line is {_SHAPE}")
    return Dataset(tuple(requests), tuple(adapters))


def _row(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise ConfigInvalid(f"{where} is no JSON: {error}", hint=f"Each line is {_SHAPE}") from error
    if not isinstance(row, dict):
        raise ConfigInvalid(f"{where} is no object", hint=f"Each line is {_SHAPE}")
    return row


def _prompt(row: dict[str, Any], where: str) -> tuple[tuple[int, ...], str]:
    ids = row.get("input_ids", row.get("logits"))
    text = row.get("prompt")
    if isinstance(ids, list) and ids and all(type(each) is int and each >= 0 for each in ids):
        return tuple(ids), ""
    if ids is None and isinstance(text, str) and text:
        return (), text
    raise ConfigInvalid(f"{where} has neither `prompt` (a text) nor `input_ids` (token ids)", hint=f"Write {_SHAPE}")


def _output(row: dict[str, Any], where: str) -> int:
    tokens = row.get("output_tokens")
    if type(tokens) is not int or tokens < 1:
        raise ConfigInvalid(f"{where}: `output_tokens` is {tokens!r}", hint="Give a whole number above 0")
    return tokens


def _place(given: Any, where: str) -> Place | None:
    if given is None:
        return None
    names: Sequence[Any] = (given.get("lora_name"), given.get("lora_path", "")) if isinstance(given, dict) else ()
    if not names or not all(isinstance(each, str) for each in names) or not names[0]:
        hint = 'Write "lora_request": {"lora_name": "lora_0", "lora_int_id": 0, "lora_path": "loras/0"}'
        raise ConfigInvalid(f"{where}: `lora_request` is {str(given)[:80]}", hint=hint)
    return Place(*names)
