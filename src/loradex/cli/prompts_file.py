"""Files of prompts to compare: JSON lines of `prompt` or `messages`, and a `reference` answer where there is one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loradex.errors import FilesNotFound, InvalidRequest

_HINT = 'Each line is {"prompt": "...", "reference": "..."}; the reference may be left out'


@dataclass(frozen=True, slots=True)
class PromptLine:
    """A prompt of a file; with `problem`, the line holds none, and that says why."""

    prompt: str | Sequence[Mapping[str, Any]] = ""
    reference: str = ""
    problem: str = ""

    @property
    def shown(self) -> str:
        """The question as one text."""
        if isinstance(self.prompt, str):
            return self.prompt
        return str(self.prompt[-1].get("content", "")) if self.prompt else ""


def read_prompts(path: Path) -> list[PromptLine]:
    """Return a line's prompt or problem for each line that is not empty: a bad line costs itself alone.

    Raises:
        FilesNotFound: there is no such file.
        InvalidRequest: it is no text, or has no prompt at all.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise FilesNotFound(f"{path} cannot be read: {error.strerror}", hint="Give a file of JSON lines") from None
    except UnicodeDecodeError:
        raise InvalidRequest(f"{path} is no text in UTF-8", hint=_HINT) from None
    found = [_line(line, f"line {number}") for number, line in enumerate(lines, 1) if line.strip()]
    if all(each.problem for each in found):
        why = f": {found[0].problem}" if found else ""
        raise InvalidRequest(f"{path} has no prompts{why}", hint=_HINT)
    return found


def _line(line: str, where: str) -> PromptLine:
    try:
        row = json.loads(line)
    except ValueError as error:
        return PromptLine(problem=f"{where} is no JSON: {error}")
    if not isinstance(row, dict):
        return PromptLine(problem=f"{where} is no JSON object")
    asked: Any = row.get("prompt", row.get("text", row.get("messages")))
    turns = isinstance(asked, list) and asked and all(isinstance(turn, dict) for turn in asked)
    if not turns and not (isinstance(asked, str) and asked.strip()):
        return PromptLine(problem=f"{where} has no `prompt`")
    reference = row.get("reference") or ""
    if not isinstance(reference, str):
        return PromptLine(problem=f"{where}: `reference` is no text")
    return PromptLine(asked, reference)
