from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
import pytest
from sklearn.kernel_approximation import Nystroem
from sklearn.linear_model import LogisticRegression

from loradex.routing import embeddings
from loradex.routing.classifier import teaching
from loradex.routing.embeddings import Embeddings
from loradex.routing.examples_file import read_examples
from loradex.routing.head import Floats
from loradex.routing.pieces import learn_pieces, words
from loradex.routing.route import Route, with_examples
from tests.routing.conftest import BENCHMARKS

ROUTES = with_examples([], read_examples(BENCHMARKS / "routing_examples.jsonl")[::4])


def bag(texts: Sequence[str]) -> Floats:
    """An encoder without a model: each word is a random direction, always the same."""

    def direction(word: str) -> Floats:
        return np.random.default_rng(zlib.crc32(word.encode())).standard_normal(64)

    return np.stack([sum((direction(word) for word in words(text)), np.zeros(64)) for text in texts])


@pytest.fixture(scope="module")
def trained() -> Embeddings:
    return Embeddings(ROUTES, bag)


def test_the_likenesses_together_are_one_logistic_regression(trained: Embeddings) -> None:
    """What scikit-learn makes of the same two kinds of features, written out side by side."""
    texts, labels, _ = teaching(ROUTES)
    pieces = learn_pieces(texts)
    near = Nystroem(kernel="rbf", gamma=1.0, n_components=len(texts)).fit(equal(texts))

    def features(of: Sequence[str]) -> Floats:
        return np.hstack([near.transform(equal(of)), embeddings._WORDS**0.5 * pieces.matrix(of).toarray()])

    oracle = LogisticRegression(C=10.0, class_weight="balanced", max_iter=1000).fit(features(texts), labels)
    prompts = [example.text for example in read_examples(BENCHMARKS / "routing_prompts.jsonl")][::10]
    logits = oracle.decision_function(features(prompts)) / trained._head.temperature
    theirs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    ours = [list(trained.decide(prompt).scores.values()) for prompt in prompts]
    np.testing.assert_allclose(ours, theirs, atol=5e-3)


def equal(texts: Sequence[str]) -> Floats:
    vectors = bag(texts)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_words_count_where_vectors_say_nothing() -> None:
    def blind(texts: Sequence[str]) -> Floats:
        return np.ones((len(texts), 4))

    routes = [
        Route("medical", examples=("fever", "high fever", "fever again", "a fever", "my fever")),
        Route("base", examples=("joke", "good joke", "joke again", "a joke", "my joke")),
    ]
    found = Embeddings(routes, blind, threshold=0.5)
    assert [found.decide(text).adapter for text in ("the fever", "the joke")] == ["medical", "base"]


def test_a_prompt_without_words_and_vector_is_left_to_the_base(trained: Embeddings) -> None:
    assert trained.decide("").adapter == "base"
