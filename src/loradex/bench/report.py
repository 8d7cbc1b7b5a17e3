"""A report from result files: a Markdown table and drawings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from loradex.bench.plot import draw
from loradex.bench.result import Result, read_result
from loradex.bench.table import markdown, read_bars
from loradex.errors import FilesNotFound


@dataclass(frozen=True, slots=True)
class Report:
    """The text of a report, and the files that were written."""

    text: str
    files: tuple[Path, ...]


def gather(paths: Sequence[Path]) -> list[Result]:
    """Read results from files and folders, by name.

    Raises:
        FilesNotFound: there are none.
        ConfigInvalid: a file is no result.
    """
    for path in paths:
        if not path.exists():
            raise FilesNotFound(f"There is no {path}", hint="Measure first, such as `loradex bench throughput`")
    files = [file for path in paths for file in (sorted(path.glob("*.json")) if path.is_dir() else [path])]
    if not files:
        named = ", ".join(str(path) for path in paths)
        raise FilesNotFound(
            f"There are no results in {named}", hint="Measure first, such as `loradex bench throughput`"
        )
    return [read_result(file) for file in files]


def report(paths: Sequence[Path], bars: Path | None, out: Path | None, *, plots: bool = True) -> Report:
    """Make a report; with `out`, write `report.md` and the drawings into that folder.

    Raises:
        FilesNotFound, ConfigInvalid: about the files.
        MissingExtra: drawings are wanted and matplotlib is not installed.
    """
    results = gather(paths)
    text = markdown(results, read_bars(bars) if bars else ())
    if out is None:
        return Report(text, ())
    drawn = draw(results, out) if plots else []
    out.mkdir(parents=True, exist_ok=True)
    page = out / "report.md"
    pictures = "".join(
        f"\n![{path.stem}]({path.name})\n" for path in drawn if path.stem == "ratios" or path.stem.endswith("-time")
    )
    page.write_text(f"# Benchmarks\n{pictures}\n{text}", encoding="utf-8")
    return Report(text, (page, *drawn))
