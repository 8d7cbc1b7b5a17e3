"""Comparisons as one HTML page that needs nothing beside it: no script, no font, no address."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files

from loradex.cli.compare_table import Case, scores
from loradex.cli.compare_view import FIGURES, SCORES, score_row, side_row
from loradex.client.comparison import Side, Token

_TAGS = {"same": "span", "missing": "del", "added": "ins"}


def page(cases: Sequence[Case], names: Sequence[str]) -> str:
    """Return the page: the table of many prompts, then each with its sides, their tokens and what differs."""
    title = escape(" · ".join(names))
    style = (files("loradex") / "assets" / "compare.css").read_text(encoding="utf-8")
    many = len(cases) > 1
    told = [_table(SCORES, [score_row(score) for score in scores(cases, names)])] if many else []
    told += [_case(case, opened=not many or index == 0) for index, case in enumerate(cases)]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>\n{style}</style>\n</head>\n<body>\n"
        f"<header><p>Loradex</p><h1>{title}</h1></header>\n<main>\n" + "\n".join(told) + "\n</main>\n"
        "<footer>Tokens are shaded by how unsure the side was of them; point at one for its probability. "
        "Agreement is twice the words that two answers have in common, in order, by the words of both.</footer>\n"
        "</body>\n</html>\n"
    )


def _case(case: Case, *, opened: bool) -> str:
    if case.comparison is None:
        return f'<p class="problem">Left out: {escape(case.problem)}</p>'
    found = case.comparison
    whole = f'<span class="agreement">agreement {found.agreement:.2f}</span>' if found.agreement is not None else ""
    cards = "\n".join(_card(side, found.first) for side in found.sides)
    reference = f"<blockquote>{escape(case.asked.reference)}</blockquote>" if case.asked.reference else ""
    return (
        f"<details{' open' if opened else ''}>\n<summary>{escape(case.asked.shown)} {whole}</summary>\n{reference}"
        f'<div class="sides">\n{cards}\n</div>\n{_table(FIGURES, [side_row(side) for side in found.sides])}\n</details>'
    )


def _card(side: Side, first: str | None) -> str:
    name = f"<h2>{escape(side.side)} <small>{escape(side.adapter)}</small></h2>"
    if side.error is not None:
        said = f"<p>{escape(side.error.message)}</p><p>{escape(side.error.hint)}</p>"
        return f'<article class="failed">{name}{said}</article>'
    because = f'<p class="route">{escape(side.route.reason)}</p>' if side.route is not None else ""
    spelled = "".join(token.text for token in side.tokens) == side.text
    answer = _tokens(side.tokens) if spelled else escape(side.text)
    parts = [name, because, f'<p class="answer">{answer}</p>']
    if side.agreement is not None and side.agreement < 1:
        runs = "".join(f"<{_TAGS[kind]}>{escape(text)}</{_TAGS[kind]}>" for kind, text in side.difference)
        parts.append(f'<h3>against {escape(first or "")}</h3><p class="answer">{runs}</p>')
    if side.reference is not None:
        parts.append(
            f'<h3>the reference, as likely as it is here</h3><p class="answer">{_tokens(side.reference.tokens)}</p>'
        )
    return f"<article>{''.join(parts)}</article>"


def _tokens(tokens: Iterable[Token]) -> str:
    return "".join(
        f'<span class="t" style="--doubt:{1 - chance:.3f}" title="{chance:.3f} ({token.logprob:.2f})">'
        f"{escape(token.text)}</span>"
        for token in tokens
        for chance in (math.exp(min(token.logprob, 0.0)),)
    )


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = "\n".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="wide"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table></div>'
