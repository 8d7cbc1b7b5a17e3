from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import MultinomialNB

from loradex.routing import head
from loradex.routing.head import bayes, logistic, softmax

train = partial(head.train, usual=0.6)

LABELS = ["a", "b", "base"]


def clouds(spread: float, each: int = 60) -> tuple[np.ndarray, list[str]]:
    random = np.random.default_rng(0)
    centres = np.eye(3, 20)
    vectors = np.concatenate([centre + spread * random.standard_normal((each, 20)) for centre in centres])
    return vectors, [label for label in LABELS for _ in range(each)]


def test_both_ways_to_learn_are_linear_and_say_what_scikit_learn_says() -> None:
    vectors, labels = clouds(0.4)
    vectors = np.abs(vectors)
    oracles = [
        (logistic(10.0), LogisticRegression(C=10.0, class_weight="balanced", max_iter=1000)),
        (bayes(0.3), MultinomialNB(alpha=0.3, fit_prior=False)),
    ]
    for fit, oracle in oracles:
        names, weights, bias = fit(vectors, np.asarray(labels))
        assert names.tolist() == LABELS
        theirs = oracle.fit(vectors, labels).predict_proba(vectors)
        np.testing.assert_allclose(softmax(vectors @ weights + bias, 1.0), theirs, atol=1e-6)


def test_probabilities_are_as_often_right_as_they_say() -> None:
    vectors, labels = clouds(0.6)
    found = train(
        vectors[::2], labels[::2], [True] * len(labels[::2]), logistic(1000.0)
    )  # far too sure of itself by design
    unseen = found.probabilities(vectors[1::2] @ found.weights + found.bias)
    right = np.array(found.labels)[unseen.argmax(axis=1)] == np.array(labels[1::2])
    raw = softmax(vectors[1::2] @ found.weights + found.bias, 1.0)
    assert found.temperature > 1
    assert abs(unseen.max(axis=1).mean() - right.mean()) < abs(raw.max(axis=1).mean() - right.mean())


def test_where_labels_are_hard_to_tell_fewer_prompts_reach_the_threshold() -> None:
    routed = []
    for spread in (0.1, 0.9):
        vectors, labels = clouds(spread)
        found = train(vectors[::2], labels[::2], [True] * 90, logistic(10.0))
        assert found.threshold == 0.6
        chances = found.probabilities(vectors[1::2] @ found.weights + found.bias)
        routed.append(sum(found.choose(each)[0] != "base" for each in chances))
    assert routed[0] == 60
    assert routed[1] < 50


def test_a_given_threshold_is_kept_and_descriptions_are_not_judged() -> None:
    vectors, labels = clouds(0.3)
    asked = [index % 60 < 4 for index in range(len(labels))]  # four prompts a label: too few to learn from
    assert train(vectors, labels, asked, logistic(10.0)).threshold == head.UNCALIBRATED
    assert train(vectors, labels, asked, logistic(10.0)).temperature == 1.0
    assert train(vectors, labels, [True] * len(labels), logistic(10.0), threshold=0.77).threshold == 0.77


@pytest.mark.parametrize("labels", [["a", "base"], ["a", "b"]])
def test_two_labels_have_the_probabilities_of_two(labels: list[str]) -> None:
    vectors = np.eye(2, 4).repeat(6, axis=0)
    given = [label for label in labels for _ in range(6)]
    found = train(vectors, given, [True] * 12, logistic(10.0))
    oracle = LogisticRegression(C=10.0, class_weight="balanced").fit(vectors, given)
    ours = softmax(vectors @ found.weights + found.bias, 1.0)
    np.testing.assert_allclose(ours, oracle.predict_proba(vectors), atol=1e-3)
