"""Vectors of prompts, of any sentence-transformers model or of the base, under a calibrated head."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from loradex.errors import ConfigInvalid, MissingExtra
from loradex.routing.classifier import decision, teaching
from loradex.routing.decision import Decision
from loradex.routing.head import Floats, logistic, train
from loradex.routing.route import Route

__all__ = ["Embeddings", "Encode", "Floats", "sentence_encoder"]

Encode = Callable[[Sequence[str]], Floats]
"""Makes vectors of texts, `[texts, features]`. It may block, and is called from any thread."""

_STRENGTH = 1.0
_PRECISION = 0.97


class Embeddings:
    """A logistic regression on the vectors that a model gives to prompts. It understands what the classifier cannot.

    Args:
        routes: with examples or descriptions, of two names at least.
        encode: makes the vectors, which are made equally long.
        threshold: probability that an adapter needs; None learns it.
        centred: whether the mean of what is learned from is taken off before: hidden states of a language model all
            point in much the same direction.

    Raises:
        ConfigInvalid: fewer than two routes have examples.
    """

    def __init__(
        self, routes: Sequence[Route], encode: Encode, threshold: float | None = None, *, centred: bool = False
    ) -> None:
        texts, labels, asked = teaching(routes)
        self._encode = encode
        found = _equal(encode(texts))
        self._middle: Floats = found.mean(axis=0) * centred
        self._head = train(
            self._moved(found), labels, asked, logistic(_STRENGTH), precision=_PRECISION, threshold=threshold
        )

    @property
    def threshold(self) -> float:
        """Probability below which it abstains."""
        return self._head.threshold

    def decide(self, text: str) -> Decision:
        """Decide on one prompt; takes one pass of the model."""
        head = self._head
        vector = self._moved(_equal(self._encode([text])))[0]
        return decision(head, head.probabilities(vector @ head.weights + head.bias))

    def _moved(self, vectors: Floats) -> Floats:
        return _equal(vectors - self._middle)


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
