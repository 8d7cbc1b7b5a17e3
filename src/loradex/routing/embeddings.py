"""Sentence embeddings from any sentence-transformers model, under the same calibrated head as the classifier's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from loradex.errors import ConfigInvalid, MissingExtra
from loradex.routing.classifier import decision, teaching
from loradex.routing.decision import Decision
from loradex.routing.head import Floats, train
from loradex.routing.route import Route

_STRENGTH = 1.0
_PRECISION = 0.97


class Embeddings:
    """A logistic regression on the vectors that a model gives to prompts. It understands what the classifier cannot.

    Args:
        routes: with examples or descriptions, of two names at least.
        model: folder or hub id of a sentence-transformers model.
        threshold: probability that an adapter needs; None learns it.

    Raises:
        ConfigInvalid: no model is named or it cannot be loaded, or fewer than two routes have examples.
        MissingExtra: sentence-transformers is not installed.
    """

    def __init__(self, routes: Sequence[Route], model: str, threshold: float | None = None) -> None:
        texts, labels, asked = teaching(routes)
        self._encoder = _encoder(model)
        self._head = train(
            self._vectors(texts), labels, asked, strength=_STRENGTH, precision=_PRECISION, threshold=threshold
        )

    @property
    def threshold(self) -> float:
        """Probability below which it abstains."""
        return self._head.threshold

    def decide(self, text: str) -> Decision:
        """Decide on one prompt; takes one pass of the model."""
        head = self._head
        return decision(head, head.probabilities(self._vectors([text])[0] @ head.weights + head.bias))

    def _vectors(self, texts: list[str]) -> Floats:
        found = self._encoder.encode(texts, normalize_embeddings=True, show_progress_bar=False)
        return np.asarray(found, dtype=np.float64)


def _encoder(model: str) -> Any:
    if not model:
        raise ConfigInvalid(
            "The policy `embeddings` needs a model",
            hint="Name a folder or hub id of sentence-transformers: `model:` in the router's file, or `--model`",
        )
    try:
        from sentence_transformers import SentenceTransformer
    except ModuleNotFoundError:
        raise MissingExtra("sentence-transformers", "semantic") from None
    try:
        return SentenceTransformer(model)
    except (OSError, ValueError) as error:
        raise ConfigInvalid(f"The embedding model `{model}` cannot be loaded: {error}") from error
