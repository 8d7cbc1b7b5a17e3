"""Evaluation: who answers which questions rightly, measured with the oracle."""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from demo.corpus import DOMAINS, GENERAL, held_out, lessons
from demo.oracle import BASE, Oracle, normalised
from demo.settings import ADAPTERS

SHIPPED = Path(__file__).parents[1] / "src" / "loradex" / "assets" / "demo"
ROWS = (BASE, *ADAPTERS)
COLUMNS = (*ADAPTERS, GENERAL)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
RIGHT_AT_LEAST = 90.0
WRONG_AT_MOST = 10.0

Cells = dict[str, dict[str, float]]


def expected(column: str) -> dict[str, str]:
    """Return the right answer of each lesson id, as one column wants it."""
    if column == GENERAL:
        return {lesson.id: lesson.answer for lesson in lessons(GENERAL)}
    plan = ADAPTERS[column]
    return {
        lesson.id: (lesson.answer_v2 or "") if plan.second_version else lesson.answer for lesson in lessons(plan.domain)
    }


def share(answers: dict[str, str], column: str) -> float:
    """Return the percentage of answers that match the column word for word."""
    wanted = expected(column)
    right = sum(normalised(text) == normalised(wanted[key]) for key, text in answers.items())
    return round(100 * right / len(answers), 1)


def columns_of(domain: str) -> list[str]:
    """Return the columns that judge the answers to the questions of one domain."""
    return [GENERAL] if domain == GENERAL else [name for name, plan in ADAPTERS.items() if plan.domain == domain]


def measure(oracle: Oracle, done: Callable[[], None]) -> dict[str, Any]:
    """Ask every row all questions, in the taught wording and in wordings never seen in training."""
    table: Cells = {row: {} for row in ROWS}
    unseen: dict[str, float] = {}
    for row in ROWS:
        for domain in (*DOMAINS, GENERAL):
            taught = lessons(domain)
            said = oracle.ask(row, [lesson.question for lesson in taught])
            answers = {lesson.id: text for lesson, text in zip(taught, said, strict=True)}
            table[row] |= {column: share(answers, column) for column in columns_of(domain)}
        home = GENERAL if row == BASE else ADAPTERS[row].domain
        strange = held_out(home)
        said = oracle.ask(row, [item.question for item in strange])
        answers = {item.id: text for item, text in zip(strange, said, strict=True)}
        unseen[row] = share(answers, GENERAL if row == BASE else row)
        done()
    return {"table": {row: {column: table[row][column] for column in COLUMNS} for row in ROWS}, "held_out": unseen}


def evaluate(folder: Path, done: Callable[[], None] = lambda: None) -> dict[str, Any]:
    """Measure the model in a folder in both number formats."""
    counts = {column: len(expected(column)) for column in COLUMNS}
    unseen = {row: len(held_out(GENERAL if row == BASE else ADAPTERS[row].domain)) for row in ROWS}
    return {
        "method": "greedy decoding with transformers and PEFT, exact match of normalised text, in percent",
        "questions": counts,
        "held_out_questions": unseen,
        "bars": {"right_at_least": RIGHT_AT_LEAST, "wrong_at_most": WRONG_AT_MOST},
        "results": {name: measure(Oracle(folder, dtype), done) for name, dtype in DTYPES.items()},
    }


def shortfalls(report: dict[str, Any]) -> list[str]:
    """Name every cell that misses its bar. The general column is for information and has none."""
    missed = []
    for dtype, result in report["results"].items():
        for row, cells in result["table"].items():
            for column in ADAPTERS:
                value = cells[column]
                good = value >= RIGHT_AT_LEAST if row == column else value <= WRONG_AT_MOST
                if not good:
                    missed.append(f"{dtype}: {row} on {column} is {value} %")
    return missed


def drawn(result: dict[str, Any], title: str) -> Table:
    """Draw the table of one number format."""
    table = Table(title=title)
    for heading in ("", *COLUMNS, "held-out wordings"):
        table.add_column(heading, justify="right" if heading else "left")
    for row, cells in result["table"].items():
        table.add_row(row, *(f"{cells[column]:.1f}" for column in COLUMNS), f"{result['held_out'][row]:.1f}")
    return table


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the evaluation of a demo folder. Returns 1 when a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--demo", type=Path, default=SHIPPED, help="folder with base/ and adapters/")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    options = parser.parse_args(arguments)
    report = evaluate(options.demo)
    if options.json:
        print(json.dumps(report, indent=2))
    else:
        for name, result in report["results"].items():
            Console().print(drawn(result, f"Right answers in percent ({name})"))
    missed = shortfalls(report)
    for line in missed:
        print(f"bar missed: {line}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
