"""How a result is shown and kept."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from loradex.cli.output import Output, grid

if TYPE_CHECKING:
    from loradex.bench.result import Result


def hand_out(out: Output, result: Result, path: Path | None) -> None:
    """Print a result, with its floor, machine and versions; write it to `path` where there is one."""
    from loradex.bench.table import COLUMNS, cells, footer

    if path is not None:
        result.save(path)
    ratios = [f"{row.what}\t{row.ratio}" for row in result.rows]
    out.data(result.describe(), [grid(COLUMNS, [cells(row) for row in result.rows]), *footer(result)], quiet=ratios)
    if path is not None:
        out.say(f"wrote {path}", style="dim")
        out.next(f"loradex bench report {path}")
