"""Results as rows of text, and as a Markdown table beside the bars that they have to reach."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from loradex.bench.pairs import Pairs
from loradex.bench.result import Result
from loradex.errors import ConfigInvalid

_SCALES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
DRIFT = 0.05
"""Side B straying further than this says that the machine was not quiet."""


@dataclass(frozen=True, slots=True)
class Bar:
    """What a row has to reach: which row of which run, by ratio, or by difference in seconds.

    `also` are runs of the same claim on other machines.
    """

    what: str
    run: str
    row: str
    reach: float
    stretch: float
    command: str
    by: str = "ratio"
    also: tuple[str, ...] = ()

    def among(self, results: Mapping[str, Result]) -> list[Result | None]:
        """Return the runs of this claim; one that is None where there are none."""
        found = [results[name] for name in (self.run, *self.also) if name in results]
        return [*found] or [None]

    def value(self, row: Pairs) -> float | None:
        """Return what the row measured, in the terms of this bar."""
        return row.difference if self.by == "difference" else row.ratio

    def met(self, row: Pairs) -> str:
        """Return `stretch`, `reach` or `no`."""
        value = self.value(row)
        if value is None:
            return "no"
        higher = row.better == "higher"
        if value >= self.stretch if higher else value <= self.stretch:
            return "stretch"
        return "reach" if (value >= self.reach if higher else value <= self.reach) else "no"

    def shown(self, value: float | None) -> str:
        """Return a value in the terms of this bar."""
        if value is None:
            return "-"
        return f"{value * 1e3:.2f} ms" if self.by == "difference" else f"{value:.3f}"


def read_bars(path: Path) -> list[Bar]:
    """Read the bars.

    Raises:
        ConfigInvalid: the file is not what it should be.
    """
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
        return [Bar(**{**each, "also": tuple(each.get("also", ()))}) for each in read]
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ConfigInvalid(f"{path} holds no bars: {error!r}", hint="See `benchmarks/bars.json`") from error


def cells(row: Pairs) -> tuple[str, ...]:
    """Return a row for people: what, A, B, ratio, spread, floor and how near A came to it."""
    ratio = f"{row.ratio:.3f}" if row.ratio is not None else "-"
    spread = f"{row.spread[0]:.3f}-{row.spread[1]:.3f}" if row.spread else "-"
    near = f" ({row.of_floor:.0%})" if row.of_floor is not None else ""
    floor = f"{quantity(row.floor, row.unit)}{near}" if row.floor else "-"
    sides = f"{row.a_name} / {row.b_name}" if row.b_name else row.a_name
    return (row.what, sides, _middle(row.a, row), _middle(row.b, row), ratio, spread, floor)


def check_cells(check: Mapping[str, Any]) -> tuple[str, str, str]:
    """Return a check for people: what must hold, whether it does, and what was found."""
    return str(check["what"]), "yes" if check["ok"] else "NO", str(check["found"])


COLUMNS = ("what", "A / B", "A", "B", "ratio", "spread", "floor of A")


def footer(result: Result) -> list[str]:
    """Return machine, versions, floor and what disturbed the run, one a line."""
    here = result.machine
    during = here.get("during", {})
    shares = ", ".join(f"{name} {during[name]:.1%}" for name in ("steal", "others", "idle") if name in during)
    lines = [f"machine: {here.get('cpu', '?')}, {here.get('cores', '?')} cores; {shares or 'load unknown'}"]
    lines.append("versions: " + ", ".join(f"{name} {number}" for name, number in result.versions.items()))
    if result.floor:
        speed = f"{quantity(result.floor.bandwidth, 'B/s')} read, {quantity(result.floor.peak, 'FLOP/s')}"
        lines.append(f"floor: {speed} in {result.floor.dtype}, measured in this run")
    else:
        lines.append("floor: not measured (the engine has no probe here)")
    strayed = [f"{row.what} {row.drift:.0%}" for row in result.rows if len(row.b) > 1 and row.drift > DRIFT]
    return lines + ([f"side B strayed by more than {DRIFT:.0%}: {', '.join(strayed)}"] if strayed else [])


def markdown(results: Sequence[Result], bars: Sequence[Bar] = ()) -> str:
    """Return the tables: the bars first, then every row of every run."""
    lines: list[str] = []
    if bars:
        found = {result.name: result for result in results}
        head = ("What", "Measured", "Spread", "Of its floor", "On", "Reach", "Stretch", "Met", "Run")
        rows = (_bar_cells(bar, run) for bar in bars for run in bar.among(found))
        lines += ["## Bars", "", *_table(head, rows), ""]
    for result in results:
        lines += [f"## {result.name}", "", *_table(COLUMNS, (cells(row) for row in result.rows)), ""]
        if checks := result.raw.get("checks"):
            lines += [*_table(("Check", "", "Found"), (check_cells(each) for each in checks)), ""]
        lines += [f"- {line}" for line in (f"{result.kind}, {result.when}", *footer(result))] + [""]
    return "\n".join(lines).rstrip() + "\n"


def summary(results: Sequence[Result], bars: Sequence[Bar]) -> str:
    """Return the short table of the bars: what was measured, what had to be reached."""
    found = {result.name: result for result in results}
    head = ("What", "Measured", "On", "Reach", "Stretch", "Met")
    rows = (_bar_cells(bar, run) for bar in bars for run in bar.among(found))
    return "\n".join(_table(head, ((row[0], row[1], *row[4:8]) for row in rows)))


def _bar_cells(bar: Bar, result: Result | None) -> tuple[str, ...]:
    row = result.row(bar.row) if result else None
    reach, stretch = bar.shown(bar.reach), bar.shown(bar.stretch)
    if row is None:
        return (bar.what, "not measured", "", "", "", reach, stretch, "", bar.run)
    spread = f"{row.spread[0]:.3f}-{row.spread[1]:.3f}" if row.spread and bar.by == "ratio" else ""
    near = f"{row.of_floor:.0%}" if row.of_floor is not None else ""
    shown, name = bar.shown(bar.value(row)), result.name if result else bar.run
    return (bar.what, shown, spread, near, _processor(result), reach, stretch, bar.met(row), name)


def _processor(result: Result | None) -> str:
    """Return the short name of what a run was made on."""
    words = str(result.machine.get("cpu", "?") if result else "?").replace("(R)", "").replace("(TM)", "").split()
    return " ".join(word for word in words if word not in ("Processor", "CPU"))


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [_line(head), _line(["---"] * len(head)), *(_line(row) for row in rows)]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _middle(values: Sequence[float], row: Pairs) -> str:
    return quantity(median(values), row.unit) if values else "-"


def quantity(value: float, unit: str) -> str:
    """Return a measured value for people."""
    if unit == "s":
        return f"{value * 1e3:.3g} ms" if value < 1 else f"{value:.3g} s"
    for size, letter in _SCALES if unit != "tok/s" else ():
        if value >= size:
            return f"{value / size:.3g} {letter}{unit}"
    return f"{value:.0f} {unit}" if value >= 100 else f"{value:.3g} {unit}"
