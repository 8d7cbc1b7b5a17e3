"""Comparisons as a file: JSON, Markdown, or one HTML page, by the suffix of its name."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from loradex.cli.compare_page import page
from loradex.cli.compare_table import Case, scores
from loradex.cli.compare_view import FIGURES, SCORES, score_row, side_row
from loradex.client.comparison import Comparison
from loradex.errors import ConfigInvalid

_MARKS = {"same": "{}", "missing": "~~{}~~", "added": "**{}**"}


def document(cases: Sequence[Case], names: Sequence[str]) -> dict[str, Any]:
    """Return the comparison of one prompt, or the table and the comparisons of many, as JSON can hold it."""
    told = [_case(case) for case in cases]
    if len(told) == 1:
        return told[0]
    return {"table": [asdict(score) for score in scores(cases, names)], "prompts": told}


def check_suffix(path: Path) -> None:
    """Look whether a report can be written under this name.

    Raises:
        ConfigInvalid: its suffix names no form, or its folder is not there.
    """
    if path.suffix not in _FORMS:
        raise ConfigInvalid(f"{path} has no form that is written", hint=f"End its name in {', '.join(_FORMS)}")
    if not path.absolute().parent.is_dir():
        raise ConfigInvalid(f"There is no folder {path.parent}", hint=f"Make it: `mkdir -p {path.parent}`")


def write_report(path: Path, cases: Sequence[Case], names: Sequence[str]) -> None:
    """Write a report.

    Raises:
        ConfigInvalid: the file cannot be written, or see `check_suffix`.
    """
    check_suffix(path)
    try:
        path.write_text(_FORMS[path.suffix](cases, names), encoding="utf-8")
    except OSError as error:
        raise ConfigInvalid(f"{path} cannot be written: {error.strerror}", hint="Name another file") from error


def _case(case: Case) -> dict[str, Any]:
    told: dict[str, Any] = {"prompt": case.asked.prompt}
    told |= {"reference": case.asked.reference} if case.asked.reference else {}
    told |= {"problem": case.problem} if case.problem else {}
    return told | (asdict(case.comparison) if case.comparison is not None else {})


def _json(cases: Sequence[Case], names: Sequence[str]) -> str:
    return json.dumps(document(cases, names), indent=2, ensure_ascii=False) + "\n"


def _markdown(cases: Sequence[Case], names: Sequence[str]) -> str:
    parts = ["# " + " · ".join(names)]
    if len(cases) > 1:
        parts.append(_rows(SCORES, [score_row(score) for score in scores(cases, names)]))
    for case in cases:
        if case.comparison is None:
            parts.append(f"Left out: {case.problem}")
            continue
        parts += [f"## {_line(case.asked.shown)}", *_answers(case.comparison)]
    return "\n\n".join(parts) + "\n"


def _answers(comparison: Comparison) -> list[str]:
    parts = []
    for side in comparison.sides:
        told = side.text if side.error is None else f"{side.error.message} ({side.error.hint})"
        parts.append(f"**{side.side}**" + (f" ({side.adapter})" if side.adapter not in ("", side.side) else ""))
        parts.append("\n".join(f"> {line}" for line in told.strip().splitlines() or [""]))
        if side.agreement is not None and side.agreement < 1:
            runs = (_MARKS[kind].format(text.strip()) for kind, text in side.difference)
            parts.append(f"Against {comparison.first}: " + _line(" ".join(runs)))
    return [*parts, _rows(FIGURES, [side_row(side) for side in comparison.sides])]


def _rows(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(_line(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def _line(text: str) -> str:
    return " ".join(text.split())


_FORMS: dict[str, Callable[[Sequence[Case], Sequence[str]], str]] = {".json": _json, ".md": _markdown, ".html": page}
