"""Results as drawings (SVG). matplotlib is only imported when one is made."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from loradex.bench.pairs import Pairs
from loradex.bench.result import Result
from loradex.errors import MissingExtra

_A, _B, _FLOOR, _OTHER = "#2b6cb0", "#a0aec0", "#c53030", "#2f855a"


def draw(results: Sequence[Result], folder: Path) -> list[Path]:
    """Draw the ratios of all results into one picture, and each result's sides into another; return the files.

    A hot fix also gets its answers and swaps over time.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    plt = _pyplot()
    folder.mkdir(parents=True, exist_ok=True)
    drawn = [_ratios(plt, results, folder / "ratios.svg")]
    drawn += [_sides(plt, result, folder / f"{result.name}.svg") for result in results]
    return drawn + [_timeline(plt, each, folder / f"{each.name}-time.svg") for each in results if each.kind == "hotfix"]


def _pyplot() -> Any:
    try:
        import matplotlib
    except ImportError as error:
        raise MissingExtra("matplotlib", "bench") from error
    matplotlib.use("svg")
    # The same picture from the same results: no date in it, and no random names.
    matplotlib.rcParams.update({"svg.hashsalt": "loradex", "font.size": 9, "axes.spines.top": False})
    import matplotlib.pyplot as plt

    return plt


def _ratios(plt: Any, results: Sequence[Result], path: Path) -> Path:
    """Draw one line for each row: its median and the spread of its pairs."""
    rows = [(f"{result.name}: {row.what}", row) for result in results for row in result.rows if row.ratios]
    figure, axes = plt.subplots(figsize=(9, 1.2 + 0.28 * len(rows)))
    for y, (_, row) in enumerate(rows):
        ends = row.spread or (0.0, 0.0)
        axes.plot(ends, (y, y), color=_B, linewidth=4, solid_capstyle="round")
        axes.plot([row.ratio], [y], "o", color=_A)
    axes.axvline(1.0, color=_FLOOR, linewidth=0.8)
    axes.set_yticks(range(len(rows)), [name for name, _ in rows])
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlabel("A / B, median and spread of the pairs")
    return _save(plt, figure, path)


def _sides(plt: Any, result: Result, path: Path) -> Path:
    """Draw each row's samples of A and B beside the floor of A, in shares of B's median; without a B, of A's own."""
    rows = [row for row in result.rows if row.ratios or (row.a and not row.b)]
    figure, axes = plt.subplots(figsize=(1.5 + 1.3 * max(1, len(rows)), 3.2))
    for x, row in enumerate(rows):
        other = row.b or row.a
        one = sorted(other)[len(other) // 2]
        _dots(axes, x - 0.12, [value / one for value in row.a], _A)
        _dots(axes, x + 0.12, [value / one for value in row.b], _B)
        if row.floor:
            axes.plot((x - 0.3, x + 0.3), (row.floor / one,) * 2, color=_FLOOR, linewidth=1)
    axes.set_xticks(range(len(rows)), [_label(row) for row in rows], rotation=20, ha="right")
    axes.set_ylim(bottom=0)
    axes.set_ylabel("shares of B's median (red: floor of A)")
    axes.set_title(result.name)
    return _save(plt, figure, path)


def _timeline(plt: Any, result: Result, path: Path) -> Path:
    """Draw each answer as a line from request to end, in the colour of its version, and each swap across them."""
    streams = result.raw["streams"]
    figure, axes = plt.subplots(figsize=(9, 1.2 + 0.14 * max(4, len(streams))))
    for swap in result.raw["swaps"]:
        axes.axvspan(swap["began"], max(swap["ended"], swap["began"] + 1e-3), color=_B, alpha=0.5, linewidth=0)
    for y, each in enumerate(streams):
        bad = each["error"] or each["version"] is None
        colour = _FLOOR if bad else (_A, _OTHER)[(each["version"] - 1) % 2]
        axes.plot((each["sent"], each["ended"]), (y, y), color=colour, linewidth=3, solid_capstyle="butt")
    axes.invert_yaxis()
    axes.set_yticks([])
    axes.set_xlabel("seconds (grey: a swap; blue and green: the two versions; red: failed, or of no one version)")
    axes.set_title(result.name)
    return _save(plt, figure, path)


def _dots(axes: Any, x: float, values: Sequence[float], colour: str) -> None:
    axes.plot([x] * len(values), values, "o", color=colour, markersize=4, alpha=0.7)


def _label(row: Pairs) -> str:
    return f"{row.what}\n({'more' if row.better == 'higher' else 'less'} is better)"


def _save(plt: Any, figure: Any, path: Path) -> Path:
    figure.savefig(path, format="svg", bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)
    return path
