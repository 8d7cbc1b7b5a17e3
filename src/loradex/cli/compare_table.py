"""Many comparisons in one table: a line for each side."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from loradex.cli.prompts_file import PromptLine
from loradex.client.comparison import Comparison, Side


@dataclass(frozen=True, slots=True)
class Case:
    """A prompt and what came of it: a comparison, or the problem that it has."""

    asked: PromptLine
    comparison: Comparison | None = None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Score:
    """One side over all prompts.

    Attributes:
        answered, failed: prompts.
        perplexity: over all tokens of all references: exp of the negative mean log-probability; None without any.
        best: prompts whose reference this side found likeliest; those who tie all count.
        agreement: mean with the first side; None for that one.
        ttft_seconds, tokens_per_second: medians.
    """

    side: str
    answered: int
    failed: int
    perplexity: float | None
    best: int
    agreement: float | None
    ttft_seconds: float | None
    tokens_per_second: float | None


def scores(cases: Sequence[Case], names: Sequence[str]) -> list[Score]:
    """Return a line for each side, in the order in which they were asked."""
    return [_score(index, name, cases) for index, name in enumerate(names)]


def _score(index: int, name: str, cases: Sequence[Case]) -> Score:
    told = [case.comparison.sides[index] for case in cases if case.comparison is not None]
    sides = [side for side in told if side.error is None]
    logprobs = [token.logprob for side in sides if side.reference is not None for token in side.reference.tokens]
    return Score(
        side=name,
        answered=len(sides),
        failed=len(told) - len(sides),
        perplexity=math.exp(min(-sum(logprobs) / len(logprobs), 700.0)) if logprobs else None,
        best=sum(_is_best(index, case.comparison) for case in cases if case.comparison is not None),
        agreement=_mean(side.agreement for side in sides),
        ttft_seconds=_median(side.ttft_seconds for side in sides),
        tokens_per_second=_median(side.tokens_per_second for side in sides),
    )


def _is_best(index: int, comparison: Comparison) -> bool:
    own = _likely(comparison.sides[index])
    return own is not None and own >= max(each for side in comparison.sides if (each := _likely(side)) is not None)


def _likely(side: Side) -> float | None:
    return side.reference.mean_logprob if side.reference is not None else None


def _mean(values: Iterable[float | None]) -> float | None:
    found = [value for value in values if value is not None]
    return statistics.mean(found) if found else None


def _median(values: Iterable[float | None]) -> float | None:
    found = [value for value in values if value is not None]
    return statistics.median(found) if found else None
