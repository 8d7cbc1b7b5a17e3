"""Output: the only place that prints. Data goes to stdout, talk to stderr."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

from loradex.cli.errors import explained

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from loradex.engine.base import Progress

_PIPE_WIDTH = 120

Mode = Literal["human", "json", "quiet"]


class Output:
    """Says things in one of three modes: tables and talk for humans, JSON, or identifiers only (quiet)."""

    def __init__(self, mode: Mode = "human") -> None:
        self.mode = mode
        self._talk: Console | None = None

    def data(
        self, value: Any, human: RenderableType | Iterable[RenderableType] = (), quiet: Iterable[str] = ()
    ) -> None:
        """Hand out the result of a command: `value` as JSON, `human` on a terminal, `quiet` line by line."""
        if self.mode == "json":
            self.raw(json.dumps(value, indent=2, default=_plain, ensure_ascii=False) + "\n")
        elif self.mode == "quiet":
            self.raw("".join(f"{line}\n" for line in quiet))
        else:
            from rich.console import Console

            # A pipe has no width; what reads it must not get words cut in two.
            console = Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH, highlight=False)
            for item in human if isinstance(human, list | tuple) else (human,):
                console.print(item)

    def table(
        self, columns: Sequence[str], rows: Iterable[Sequence[Any]], value: Any, quiet: Iterable[str], empty: str = ""
    ) -> None:
        """Hand out rows; `empty` is said to humans when there are none."""
        listed = [tuple("" if cell is None else str(cell) for cell in row) for row in rows]
        if self.mode != "human":
            self.data(value, quiet=quiet)
        elif listed:
            self.data(value, grid(columns, listed))
        else:
            self.say(empty)

    def raw(self, text: str) -> None:
        """Write text to stdout as it is, at once."""
        sys.stdout.write(text)
        sys.stdout.flush()

    def say(self, message: str = "", style: str = "") -> None:
        """Tell a human something on stderr. Nothing is said in the other modes."""
        if self.mode == "human":
            self._console().print(message, style=style or None, markup=False, highlight=False, soft_wrap=True)

    def next(self, command: str) -> None:
        """Tell a human what to do next."""
        self.say(f"next: {command}", style="cyan")

    def error(self, error: BaseException) -> None:
        """Print an error on stderr: three lines for humans, JSON in the JSON mode."""
        if self.mode == "json":
            sys.stderr.write(json.dumps(explained(error).body(), default=_plain, ensure_ascii=False) + "\n")
            return
        console = self._console()
        for index, (label, text) in enumerate(explained(error).lines()):
            style = {"error": "bold red", "fix": "cyan"}.get(label, "bold")
            console.print(f"{label}: " if index == 0 else f"  {label}: ", style=style, end="", highlight=False)
            console.print(text, markup=False, highlight=False, soft_wrap=True)

    @contextmanager
    def progress(self) -> Iterator[Progress]:
        """Show a bar for each stage that is reported; only to a human who looks at a terminal."""
        if self.mode != "human" or not sys.stderr.isatty() or _set("NO_COLOR") or _set("LORADEX_NO_PROGRESS"):
            yield lambda stage, share: None
            return
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        parts = (TextColumn("{task.description:<24}"), BarColumn(), TimeElapsedColumn())
        with Progress(*parts, console=self._console(), transient=True) as bars:
            tasks: dict[str, Any] = {}

            def report(stage: str, share: float) -> None:
                if stage not in tasks:
                    tasks[stage] = bars.add_task(stage, total=1.0)
                bars.update(tasks[stage], completed=share)

            yield report

    @property
    def width(self) -> int:
        """Characters of a line of data."""
        from rich.console import Console

        return Console().width if sys.stdout.isatty() else _PIPE_WIDTH

    @contextmanager
    def live(self) -> Iterator[Callable[[Callable[[], RenderableType]], None]]:
        """Yield what shows something in place of what it showed before, only to a human who looks at a terminal.

        It is given what makes the view, which is asked for as often as an eye can follow. At the end nothing is left.
        """
        if self.mode != "human" or not sys.stdout.isatty() or _set("LORADEX_NO_PROGRESS"):
            yield lambda make: None
            return
        from rich.console import Console
        from rich.live import Live

        made: list[Callable[[], RenderableType]] = []
        console = Console(highlight=False)
        with Live(console=console, transient=True, get_renderable=lambda: made[-1]() if made else ""):
            yield lambda make: made.__setitem__(slice(None), [make])

    def _console(self) -> Console:
        if self._talk is None:
            from rich.console import Console

            self._talk = Console(stderr=True, highlight=False)
        return self._talk


def grid(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, wrap: bool = False) -> RenderableType:
    """Return a plain table; without lines, and without headings where they are empty. The last column may wrap."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, show_header=any(columns))
    for index, column in enumerate(columns):
        table.add_column(column.upper(), overflow="fold", no_wrap=not wrap and index < len(columns) - 1)
    for row in rows:
        table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in row))
    return table


def human_size(number: int) -> str:
    """Return bytes in a form for people, such as `1.5 MiB`."""
    amount = float(number)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"


def human_count(number: int) -> str:
    """Return a count in a form for people, such as `1.5M`."""
    for limit, unit in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if number >= limit:
            return f"{number / limit:.1f}{unit}"
    return str(number)


def human_time(seconds: float) -> str:
    """Return a duration in a form for people: `0.8 ms`, `12 ms`, `1.5 s`."""
    if seconds < 0.01:
        return f"{seconds * 1000:.2f} ms"
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def _set(name: str) -> bool:
    return bool(os.environ.get(name))


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Mapping):
        return dict(value)
    return str(value)
