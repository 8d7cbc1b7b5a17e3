from __future__ import annotations

import itertools

import pytest

from loradex.routing.classifier import Classifier
from loradex.routing.decision import Decision
from loradex.routing.evaluate import evaluate
from loradex.routing.examples_file import read_examples
from loradex.routing.route import Example, Route
from loradex.routing.words import Words
from tests.routing.conftest import BENCHMARKS


def test_what_is_counted() -> None:
    words = Words([Route("a", words=("apple",)), Route("b", words=("banana",))])
    prompts = [
        Example("apple", "a"),
        Example("apple", "b"),
        Example("nothing", "b"),
        Example("banana", "base"),
        Example("nothing", "base"),
    ]
    ticks = itertools.count()
    found = evaluate(words, prompts, lambda: float(next(ticks)))
    assert (found.prompts, found.accuracy, found.coverage) == (5, 2 / 5, 3 / 5)
    assert found.routed_precision == 1 / 3
    assert found.confusion == {
        "a": {"a": 1, "b": 0, "base": 0},
        "b": {"a": 1, "b": 0, "base": 1},
        "base": {"a": 0, "b": 1, "base": 1},
    }
    assert found.latency_ms == pytest.approx({"p50": 1000, "p99": 1000})


def test_nothing_routed_has_no_precision() -> None:
    class Never:
        def decide(self, text: str) -> Decision:
            return Decision("base", 1.0, "")

    found = evaluate(Never(), [Example("apple", "a")], lambda: 0.0)
    assert (found.routed_precision, found.coverage, found.accuracy) == (None, 0, 0)


def test_the_lexical_classifier_on_prompts_that_it_has_not_seen(trained: Classifier) -> None:
    prompts = read_examples(BENCHMARKS / "routing_prompts.jsonl")
    seen = {example.text for example in read_examples(BENCHMARKS / "routing_examples.jsonl")}
    assert not seen & {prompt.text for prompt in prompts}
    found = evaluate(trained, prompts, lambda: 0.0)
    assert found.routed_precision is not None
    assert found.routed_precision >= 0.8
    assert found.accuracy >= 0.5
