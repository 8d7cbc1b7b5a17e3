"""Texts as numbers, without a model: their words, and pieces of the words that carry meaning."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]

_WORD = re.compile(r"\w+")
_PIECES = (3, 4, 5)


@dataclass(frozen=True, slots=True)
class View:
    """One way to take texts apart.

    Attributes:
        split: a text into parts.
        index: column of each part that was seen.
        rarity: float64, [parts]; how much one of them says.
        unseen: the same of a part that no text had.
    """

    split: Callable[[str], Iterator[str]]
    index: dict[str, int]
    rarity: Floats
    unseen: float

    def vector(self, text: str) -> tuple[Indices, Floats]:
        """Return columns and their values (TF-IDF with the logarithm of counts).

        All parts together have length 1. What was never seen is among them and has no column: a text that is hardly
        known gets a short vector, with which nobody can be sure of much.
        """
        counts = Counter(self.split(text))
        columns = np.array([self.index.get(part, -1) for part in counts], dtype=np.intp)
        values = 1 + np.log(np.fromiter(counts.values(), np.float64, len(counts)))
        values *= np.append(self.rarity, self.unseen)[columns]
        values /= np.linalg.norm(values) or 1.0
        known = columns >= 0
        return columns[known], values[known]


@dataclass(frozen=True, slots=True)
class Pieces:
    """Vectors of texts as several views see them, side by side."""

    views: tuple[View, ...]

    def vector(self, text: str) -> tuple[Indices, Floats]:
        """Return columns and values of one text."""
        found = [view.vector(text) for view in self.views]
        before = np.cumsum([0, *(len(view.index) for view in self.views)])
        columns = [part + start for (part, _), start in zip(found, before, strict=False)]
        return np.concatenate(columns), np.concatenate([values for _, values in found])

    def matrix(self, texts: Sequence[str]) -> Any:
        """Return the vectors of texts, a sparse matrix of scipy's: [texts, parts]."""
        from scipy.sparse import csr_array

        rows = [self.vector(text) for text in texts]
        ends = np.cumsum([0, *(len(columns) for columns, _ in rows)])
        columns, values = (np.concatenate(each) for each in zip(*rows, strict=True))
        return csr_array((values, columns, ends), shape=(len(texts), sum(len(view.index) for view in self.views)))


def learn_pieces(texts: Sequence[str]) -> Pieces:
    """Return what the texts are made of: their words, and the pieces of those that are not mere grammar.

    Pieces let inflections, typos and relatives in other languages count. Of grammar (`what`, `the`, `can`) they would
    be noise, but as whole words it tells a question from a wish.
    """
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    def pieces(text: str) -> Iterator[str]:
        for word in words(text):
            if word not in ENGLISH_STOP_WORDS:
                edged = f" {word} "
                for size in _PIECES:
                    yield from (edged[at : at + size] for at in range(len(edged) - size + 1))

    return Pieces((_learn(texts, pieces), _learn(texts, words)))


def words(text: str) -> Iterator[str]:
    """Yield the words, in small letters."""
    return (found[0] for found in _WORD.finditer(text.lower()))


def _learn(texts: Sequence[str], split: Callable[[str], Iterator[str]]) -> View:
    spread = Counter(part for text in texts for part in set(split(text)))
    index = {part: column for column, part in enumerate(spread)}
    counts = np.fromiter(spread.values(), np.float64, len(spread))
    return View(split, index, 1 + np.log((1 + len(texts)) / (1 + counts)), 1 + float(np.log(1 + len(texts))))
