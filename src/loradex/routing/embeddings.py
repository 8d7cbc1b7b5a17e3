"""Vectors of prompts, of any sentence-transformers model or of the base, under a calibrated head."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from loradex.errors import ConfigInvalid, MissingExtra
from loradex.routing.classifier import MAX_CHARACTERS, decision, teaching
from loradex.routing.decision import Decision
from loradex.routing.head import Floats, logistic, train
from loradex.routing.pieces import learn_pieces
from loradex.routing.route import Route

__all__ = ["Embeddings", "Encode", "Floats", "sentence_encoder"]

Encode = Callable[[Sequence[str]], Floats]
"""Makes vectors of texts, `[texts, features]`. It may block, and is called from any thread."""

_STRENGTH = 10.0
_THRESHOLD = 0.78
_WORDS = 0.2
"""Weight of the likeness of words beside that of vectors."""

_NOTHING = 1e-9


class Embeddings:
    """A logistic regression on two kinds of likeness: of the vectors that a model gives to prompts, and of their words.

    The vectors understand other words and other languages; words tell what a prompt wants from what it is about ("write
    a poem about a doctor"), which vectors hardly do. Each text that was learned from is compared with, so that labels
    need not be flat regions: the likenesses are added up as one kernel.

    Args:
        routes: with examples or descriptions, of two names at least.
        encode: makes the vectors, which are made equally long.
        threshold: probability that an adapter needs; None takes the usual one.
        centred: whether the mean of what is learned from is taken off before: hidden states of a language model all
            point in much the same direction.

    Raises:
        ConfigInvalid: fewer than two routes have examples.
    """

    def __init__(
        self, routes: Sequence[Route], encode: Encode, threshold: float | None = None, *, centred: bool = False
    ) -> None:
        texts, labels, asked = teaching(routes)
        self._encode, self._pieces = encode, learn_pieces(texts)
        found = _equal(encode(texts))
        self._middle: Floats = found.mean(axis=0) * centred
        self._seen = self._moved(found)
        parts = self._pieces.matrix(texts)
        likeness = _near(self._seen, self._seen) + _WORDS * (parts @ parts.T).toarray()
        span = _span(likeness)
        fit = logistic(_STRENGTH)
        self._head = train(likeness @ span, labels, asked, fit, usual=_THRESHOLD, threshold=threshold)
        self._by_text: Floats = span @ self._head.weights
        self._by_part: Floats = _WORDS * (parts.T @ self._by_text)

    @property
    def threshold(self) -> float:
        """Probability below which it abstains."""
        return self._head.threshold

    def decide(self, text: str) -> Decision:
        """Decide on one prompt; takes one pass of the model."""
        vector = self._moved(_equal(self._encode([text])))
        rows, values = self._pieces.vector(text[:MAX_CHARACTERS])
        logits = (_near(vector, self._seen) @ self._by_text)[0] + values @ self._by_part[rows]
        return decision(self._head, self._head.probabilities(logits + self._head.bias))

    def _moved(self, vectors: Floats) -> Floats:
        return _equal(vectors - self._middle)


def _near(some: Floats, others: Floats) -> Floats:
    """Return how near vectors of length 1 are: [some, others], 1 where they are the same."""
    found: Floats = np.exp(2 * (some @ others.T - 1))
    return found


def _span(likeness: Floats) -> Floats:
    """Return what turns likenesses to the texts into coordinates whose products are those likenesses.

    A linear model of the coordinates is then one of all that the texts were compared by, and as small as there are
    texts.
    """
    sizes, axes = np.linalg.eigh(likeness)
    real = sizes > _NOTHING
    found: Floats = axes[:, real] / np.sqrt(sizes[real])
    return found


def _equal(vectors: Floats) -> Floats:
    """Return the vectors with length 1."""
    found: Floats = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return found


def sentence_encoder(model: str) -> Encode:
    """Return the encoder of a sentence-transformers model, by its folder or hub id.

    Raises:
        ConfigInvalid: no model is named, or it cannot be loaded.
        MissingExtra: sentence-transformers is not installed.
    """
    if not model:
        raise ConfigInvalid(
            "The policy `embeddings` needs a model",
            hint="Name a folder or hub id of sentence-transformers, or `base` for the served model itself: `model:` in "
            "the router's file, or `--model`",
        )
    try:
        from sentence_transformers import SentenceTransformer
    except ModuleNotFoundError:
        raise MissingExtra("sentence-transformers", "semantic") from None
    try:
        found = SentenceTransformer(model)
    except (OSError, ValueError) as error:
        raise ConfigInvalid(f"The embedding model `{model}` cannot be loaded: {error}") from error

    def encode(texts: Sequence[str]) -> Floats:
        return np.asarray(found.encode(list(texts), show_progress_bar=False), dtype=np.float64)

    return encode
