"""Comparisons in a terminal: a column for each side, live while they answer, and tables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from loradex.cli.compare_table import Case, Score
from loradex.cli.output import grid, human_time
from loradex.client.comparison import CompareEvent, Comparison, Side, Token

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

SCORES = ("side", "answers", "failed", "perplexity", "best", "agreement", "ttft", "tokens/s")
FIGURES = ("side", "tokens", "ttft", "tokens/s", "logprob", "agreement", "perplexity", "answered by")

_COLUMN = 26
"""Characters below which a column cannot be read; then the sides stand one below the other."""

_UNSURE = ((0.1, "red"), (0.5, "yellow"), (0.9, "cyan"))
"""Colours of tokens whose probability is below that."""


@dataclass
class Board:
    """The sides while they answer."""

    names: Sequence[str]
    width: int
    titles: dict[int, str] = field(default_factory=dict)
    texts: dict[int, str] = field(default_factory=dict)
    ends: dict[int, Side] = field(default_factory=dict)

    def take(self, event: CompareEvent) -> None:
        """Note an event."""
        if event.type == "begin":
            self.titles[event.index] = event.adapter
        elif event.type == "text":
            self.texts[event.index] = self.texts.get(event.index, "") + event.text
        elif event.type == "end" and event.side is not None:
            self.ends[event.index] = event.side

    def shown(self) -> RenderableType:
        """Return the columns as they are now."""
        from rich.text import Text

        panels = []
        for index, name in enumerate(self.names):
            if index in self.ends:
                panels.append(_panel(self.ends[index]))
            else:
                body = Text(self.texts.get(index, "") + "▌")
                panels.append(_framed(name, self.titles.get(index, ""), body, "...", "blue"))
        return _beside(panels, self.width)


def shown(comparison: Comparison, width: int) -> list[RenderableType]:
    """Return a whole comparison: the columns, what differs from the first answer, and figures."""
    from rich.text import Text

    parts: list[RenderableType] = [_beside([_panel(side) for side in comparison.sides], width)]
    for side in comparison.sides:
        if side.agreement is not None and side.agreement < 1:
            parts += ["", Text(f"{side.side} against {comparison.first}", style="bold"), _difference(side)]
    parts += ["", _figures(comparison)]
    if comparison.agreement is not None:
        parts.append(f"agreement of all answers {comparison.agreement:.2f}{_apart(comparison)}")
    return parts


def table(found: Sequence[Score], cases: Sequence[Case]) -> list[RenderableType]:
    """Return what many comparisons came to, and what is wrong with some of their prompts."""
    from rich.text import Text

    parts: list[RenderableType] = [grid(SCORES, [score_row(score) for score in found])]
    problems = [case.problem for case in cases if case.problem]
    parts += [Text(f"left out: {problem}", style="yellow") for problem in problems]
    return parts


def score_row(score: Score) -> tuple[str, ...]:
    """Return a line of the table as texts."""
    return (
        score.side,
        str(score.answered),
        str(score.failed),
        number(score.perplexity, 2),
        str(score.best) if score.perplexity is not None else "",
        number(score.agreement, 2),
        human_time(score.ttft_seconds) if score.ttft_seconds is not None else "",
        number(score.tokens_per_second, 0),
    )


def number(value: float | None, digits: int) -> str:
    """Return a number for people, nothing for None."""
    return "" if value is None else f"{value:.{digits}f}"


def side_row(side: Side) -> tuple[str, ...]:
    """Return the figures of one side as texts, in the order of `FIGURES`."""
    if side.error is not None:
        return (side.side, "", "", "", "", "", "", f"failed: {side.error.message}")
    return (
        side.side,
        str(side.completion_tokens),
        human_time(side.ttft_seconds) if side.ttft_seconds is not None else "",
        number(side.tokens_per_second, 0),
        number(side.mean_logprob, 2),
        number(side.agreement, 2),
        number(side.reference.perplexity, 2) if side.reference is not None else "",
        side.adapter,
    )


def _figures(comparison: Comparison) -> RenderableType:
    return grid(FIGURES, [side_row(side) for side in comparison.sides])


def _apart(comparison: Comparison) -> str:
    return "" if comparison.together else "; not all of them could begin in one batch"


def _panel(side: Side) -> RenderableType:
    from rich.text import Text

    if side.error is not None:
        body = Text(f"{side.error.message}\n{side.error.hint}", style="red")
        return _framed(side.side, "", body, side.error.code, "red")
    rate = f" · {side.tokens_per_second:.0f} tokens/s" if side.tokens_per_second else ""
    foot = f"{human_time(side.ttft_seconds or 0.0)}{rate}"
    because = f" ({side.route.reason})" if side.route is not None else ""
    return _framed(side.side, side.adapter + because, _heated(side), foot, "green")


def _heated(side: Side) -> Text:
    """Return an answer whose unsure tokens are coloured; as it is where its tokens do not spell it."""
    from rich.text import Text

    if "".join(token.text for token in side.tokens) != side.text:
        return Text(side.text)
    parts = [(token.text, _heat(token)) for token in side.tokens]
    return Text.assemble(*parts)


def _heat(token: Token) -> str:
    chance = math.exp(min(token.logprob, 0.0))
    return next((style for limit, style in _UNSURE if chance < limit), "")


def _difference(side: Side) -> Text:
    from rich.text import Text

    styles = {"added": "green", "missing": "red strike", "same": "dim"}
    return Text.assemble(*((text, styles.get(kind, "")) for kind, text in side.difference))


def _framed(name: str, adapter: str, body: Text, foot: str, style: str) -> RenderableType:
    from rich.panel import Panel
    from rich.text import Text

    title = Text(name, style="bold")
    if adapter not in ("", name):
        title.append(f" → {adapter}", style="dim")
    return Panel(body, title=title, subtitle=Text(foot, style="dim"), border_style=style, title_align="left")


def _beside(panels: Sequence[RenderableType], width: int) -> RenderableType:
    from rich.console import Group
    from rich.table import Table

    if width // max(len(panels), 1) < _COLUMN:
        return Group(*panels)
    columns = Table.grid(expand=True)
    for _ in panels:
        columns.add_column(ratio=1)
    columns.add_row(*panels)
    return columns
