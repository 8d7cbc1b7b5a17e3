"""What stands on the vectors of prompts: one weight vector a label, honest probabilities, and when to abstain."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loradex.core.adapter import BASE

Floats = NDArray[np.float64]

UNCALIBRATED = 0.5
"""The threshold where there are too few examples to calibrate with."""

_FOLDS = 10
_FEWEST = 5
"""Examples of each name that calibration takes."""

_TEMPERATURES = np.geomspace(0.05, 20.0, 61)


@dataclass(frozen=True, slots=True)
class Head:
    """A linear model with a temperature, and a threshold for its probabilities.

    Attributes:
        labels: in the order of the columns.
        weights: float64, [features, labels].
        bias: float64, [labels].
        temperature: by which logits are divided, so that probabilities are as often right as they say.
        threshold: probability that an adapter needs.
    """

    labels: tuple[str, ...]
    weights: Floats
    bias: Floats
    temperature: float
    threshold: float

    def probabilities(self, logits: Floats) -> Floats:
        """Return the calibrated probabilities of one row of logits, [labels]."""
        return softmax(logits, self.temperature)

    def choose(self, probabilities: Floats) -> tuple[str, float]:
        """Return the adapter and its probability, or `base` and the probability that no adapter is right enough."""
        best = int(np.argmax(probabilities))
        label = self.labels[best]
        if label != BASE and probabilities[best] < self.threshold:
            label = BASE
            if BASE not in self.labels:
                return BASE, 1.0 - float(probabilities[best])
            best = self.labels.index(BASE)
        return label, float(probabilities[best])


Fit = Callable[[Any, NDArray[np.str_]], tuple[NDArray[np.str_], Floats, Floats]]
"""Learns from vectors `[texts, features]` and labels; returns labels in order, weights and bias as in a `Head`."""


def train(
    vectors: Any,
    labels: Sequence[str],
    asked: Sequence[bool],
    fit: Fit,
    *,
    usual: float,
    threshold: float | None = None,
) -> Head:
    """Learn a head.

    The temperature (Guo et al. 2017) is learned from examples that the model which judges them has not seen, in folds.
    It makes one threshold mean the same everywhere: where examples are hard to tell apart, fewer prompts reach it. A
    threshold learned from the same folds was tried; it hangs on the few examples around it, and was worse everywhere.

    Args:
        vectors: [texts, features], dense or sparse.
        labels: of each text; two different ones at least.
        asked: of each text, whether it is a prompt; the others (descriptions) teach, and are not judged.
        fit: how weights are learned.
        usual: threshold for calibrated probabilities.
        threshold: probability that an adapter needs; None takes the usual one.
    """
    from threadpoolctl import threadpool_limits

    given, prompts = np.asarray(labels), np.flatnonzero(asked)
    # So small a problem gains nothing from threads, and those of the engine must not be kept waiting.
    with threadpool_limits(1, user_api="blas"):
        names, weights, bias = fit(vectors, given)
        temperature, needed = 1.0, UNCALIBRATED
        fewest = min(Counter(given[prompts]).values(), default=0)
        if fewest >= _FEWEST and set(given[prompts]) == set(names):
            logits = _unseen(vectors, given, prompts, fit, folds=min(fewest, _FOLDS))
            answers = np.searchsorted(names, given[prompts])
            temperature = min(_TEMPERATURES, key=lambda each: _surprise(logits, answers, each))
            needed = usual
    labels = tuple(names.tolist())
    return Head(labels, weights, bias, float(temperature), needed if threshold is None else threshold)


def logistic(strength: float) -> Fit:
    """Return a multinomial logistic regression; `strength` is the inverse of its regularisation."""

    def fit(vectors: Any, labels: NDArray[np.str_]) -> tuple[NDArray[np.str_], Floats, Floats]:
        from sklearn.linear_model import LogisticRegression

        model = LogisticRegression(C=strength, class_weight="balanced", max_iter=1000).fit(vectors, labels)
        weights, bias = model.coef_, model.intercept_
        if len(model.classes_) == 2:  # scikit-learn keeps the second label's alone, against a first of zeros
            weights, bias = np.vstack([0 * weights, weights]), np.concatenate([0 * bias, bias])
        return model.classes_, weights.T, bias

    return fit


def bayes(smoothing: float) -> Fit:
    """Return a multinomial naive Bayes, in which all labels are as likely beforehand.

    From few examples it is no surer of what it has seen once than it should be, which a regression is. `smoothing` is
    what each feature counts before any text is seen.
    """

    def fit(vectors: Any, labels: NDArray[np.str_]) -> tuple[NDArray[np.str_], Floats, Floats]:
        from sklearn.naive_bayes import MultinomialNB

        model = MultinomialNB(alpha=smoothing, fit_prior=False).fit(vectors, labels)
        known = np.asarray(vectors.sum(axis=0)).ravel() > 0  # what none of these texts has speaks for no label
        return model.classes_, model.feature_log_prob_.T * known[:, None], np.zeros(len(model.classes_))

    return fit


def softmax(logits: Floats, temperature: float) -> Floats:
    """Return probabilities along the last axis."""
    scaled = logits / temperature
    powers = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    found: Floats = powers / powers.sum(axis=-1, keepdims=True)
    return found


def _unseen(vectors: Any, labels: NDArray[np.str_], prompts: NDArray[np.intp], fit: Fit, folds: int) -> Floats:
    """Return the logits of each prompt, from a model that was trained without it."""
    from sklearn.model_selection import StratifiedKFold

    found = np.zeros((len(prompts), len(set(labels))))
    for _, held in StratifiedKFold(folds, shuffle=True, random_state=0).split(prompts, labels[prompts]):
        seen = np.setdiff1d(np.arange(len(labels)), prompts[held])
        _, weights, bias = fit(vectors[seen], labels[seen])
        found[held] = vectors[prompts[held]] @ weights + bias
    return found


def _surprise(logits: Floats, answers: NDArray[np.intp], temperature: float) -> float:
    """Return the mean negative log-likelihood."""
    chances = softmax(logits, temperature)[np.arange(len(answers)), answers]
    return float(-np.log(np.maximum(chances, 1e-12)).mean())
