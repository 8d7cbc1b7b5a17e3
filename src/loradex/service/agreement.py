"""How much two answers agree, word for word."""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import SequenceMatcher
from itertools import combinations
from typing import Literal

Part = tuple[Literal["same", "missing", "added"], str]
"""A run of words: in both, only in the first, or only in the other."""

_WORD = re.compile(r"\S+\s*")


def agreement(one: str, other: str) -> float:
    """Return twice the words that both have, in the same order, by the words of both: 0 to 1, 1 for equal words."""
    return _matched(_words(one), _words(other)).ratio()


def mean_agreement(texts: Sequence[str]) -> float | None:
    """Return the mean over all pairs; None for fewer than two texts."""
    pairs = [agreement(one, other) for one, other in combinations(texts, 2)]
    return sum(pairs) / len(pairs) if pairs else None


def difference(one: str, other: str) -> tuple[Part, ...]:
    """Return the words of both in runs that, read without `missing`, are `other`, and without `added`, `one`."""
    first, second = _WORD.findall(one), _WORD.findall(other)
    parts: list[Part] = []
    for kind, i, j, k, l in _matched(_words(one), _words(other)).get_opcodes():  # noqa: E741 - as difflib has them
        if kind == "equal":
            parts.append(("same", "".join(second[k:l])))
            continue
        if i < j:
            gone = "".join(first[i:j])
            parts.append(("missing", gone if gone[-1].isspace() else f"{gone} "))
        if k < l:
            parts.append(("added", "".join(second[k:l])))
    return tuple(parts)


def _words(text: str) -> list[str]:
    return text.split()


def _matched(one: list[str], other: list[str]) -> SequenceMatcher[str]:
    return SequenceMatcher(None, one, other, autojunk=False)
