"""A classifier trained in a second from examples: pieces of words, so that typos and inflections do not matter much."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from loradex.core.adapter import BASE
from loradex.errors import ConfigInvalid
from loradex.routing.decision import Decision
from loradex.routing.head import Head, bayes, train
from loradex.routing.pieces import learn_pieces
from loradex.routing.route import Route, lessons

_SMOOTHING = 0.3
_THRESHOLD = 0.6
MAX_CHARACTERS = 2000
"""Of a prompt that are looked at; a domain shows early, and a decision must stay short."""

_SAID = 3


class Classifier:
    """Naive Bayes on the words of prompts and on pieces of them.

    Training is scikit-learn's and takes a moment; a decision looks up each piece of the prompt and adds rows, which
    takes a fraction of a millisecond.

    Args:
        routes: with examples or descriptions, of two names at least.
        threshold: probability that an adapter needs; None takes the usual one.

    Raises:
        ConfigInvalid: fewer than two routes have something to learn from.
    """

    def __init__(self, routes: Sequence[Route], threshold: float | None = None) -> None:
        texts, labels, asked = teaching(routes)
        self._pieces = learn_pieces(texts)
        self._head: Head = train(
            self._pieces.matrix(texts), labels, asked, bayes(_SMOOTHING), usual=_THRESHOLD, threshold=threshold
        )

    @property
    def threshold(self) -> float:
        """Probability below which it abstains."""
        return self._head.threshold

    def decide(self, text: str) -> Decision:
        """Decide on one prompt."""
        rows, values = self._pieces.vector(text[:MAX_CHARACTERS])
        if not len(rows):
            nothing = dict.fromkeys(self._head.labels, 0.0)
            return Decision(BASE, 1.0, "nothing in it was seen in any example", nothing, "unknown")
        head = self._head
        chances = head.probabilities(values @ head.weights[rows] + head.bias)
        return decision(head, chances)


def teaching(routes: Sequence[Route]) -> tuple[list[str], list[str], list[bool]]:
    """Return texts, their labels, and which are prompts: examples are; the phrases of descriptions and words are not.

    Raises:
        ConfigInvalid: fewer than two routes have any.
    """
    found = [(text, name, True) for name, texts in lessons(routes).items() for text in texts]
    if len({name for _, name, _ in found}) < 2:
        raise ConfigInvalid(
            "A router learns from the examples of two names at least, of which one may be `base`",
            hint="Give `examples` to the routes, and some prompts for `base` that no adapter should answer",
        )
    found += [(phrase, route.name, False) for route in routes for phrase in _phrases(route)]
    texts, labels, asked = map(list, zip(*found, strict=True))
    return texts, labels, asked


def decision(head: Head, chances: NDArray[np.float64]) -> Decision:
    """Return what a head decides on the probabilities of one prompt, and why."""
    adapter, score = head.choose(chances)
    scores = {name: round(float(chance), 4) for name, chance in zip(head.labels, chances, strict=True)}
    best = sorted(scores, key=scores.__getitem__, reverse=True)[:_SAID]
    said = ", ".join(f"{name} {scores[name]:.2f}" for name in best)
    if adapter == BASE and best[0] != BASE:
        return Decision(adapter, score, f"{said}: less than {head.threshold:.2f}", scores, "unsure")
    return Decision(adapter, score, said, scores, "general" if adapter == BASE else "matched")


def _phrases(route: Route) -> list[str]:
    parts = (part.strip() for part in re.split(r"[.,;:\n]", route.description))
    return [part for part in (*parts, *route.words) if part]
