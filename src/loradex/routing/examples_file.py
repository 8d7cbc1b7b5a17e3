"""Files of prompts with the adapter that should answer them: JSON lines of `text` and `label`."""

from __future__ import annotations

import json
from pathlib import Path

from loradex.core.adapter import BASE, check_name
from loradex.errors import FilesNotFound, InvalidRequest
from loradex.routing.route import Example

_HINT = f'Each line is {{"text": "...", "label": "NAME"}}, where the label `{BASE}` means no adapter'


def read_examples(path: Path) -> list[Example]:
    """Return the examples of a file, in order. Fields beside `text` and `label` are left alone.

    Raises:
        FilesNotFound: there is no such file.
        InvalidRequest: a line is not what it should be, or there is none; the message has its number.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise FilesNotFound(f"{path} cannot be read: {error.strerror}", hint="Give a file of JSON lines") from None
    except UnicodeDecodeError:
        raise InvalidRequest(f"{path} is no text in UTF-8", hint=_HINT) from None
    found = [_example(line, f"{path}, line {number}") for number, line in enumerate(lines, 1) if line.strip()]
    if not found:
        raise InvalidRequest(f"{path} has no examples", hint=_HINT)
    return found


def _example(line: str, where: str) -> Example:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise InvalidRequest(f"{where} is no JSON: {error}", hint=_HINT) from None
    if not isinstance(row, dict):
        raise InvalidRequest(f"{where} is no JSON object", hint=_HINT)
    for key in ("text", "label"):
        if not isinstance(row.get(key), str) or not row[key].strip():
            raise InvalidRequest(f"{where} has no `{key}`", hint=_HINT)
    return Example(row["text"], check_name(row["label"], f"label in {where}"))
