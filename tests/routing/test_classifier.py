from __future__ import annotations

import pytest

from loradex.errors import ConfigInvalid
from loradex.routing.classifier import Classifier
from loradex.routing.examples_file import read_examples
from loradex.routing.route import Route, with_examples
from tests.routing.conftest import BENCHMARKS


def test_prompts_go_where_their_like_went(trained: Classifier) -> None:
    asked = {
        "What are the symptoms of diabetes?": "medical",
        "Can my landlord terminate the lease?": "legal",
        "How do I undo a git commit in Python?": "technical",
        "Tell me a joke about a poem": "base",
    }
    assert {prompt: trained.decide(prompt).adapter for prompt in asked} == asked


def test_a_typo_changes_little(trained: Classifier) -> None:
    assert trained.decide("What are the symptms of diabtes?").adapter == "medical"


@pytest.mark.parametrize("prompt", ["", "   ", "⟡⟡⟡", "例文"])
def test_what_was_never_seen_is_left_to_the_base(trained: Classifier, prompt: str) -> None:
    found = trained.decide(prompt)
    assert (found.adapter, found.score) == ("base", 1.0)
    assert "nothing in it was seen" in found.reason


def test_the_reason_has_the_scores_and_they_are_probabilities(trained: Classifier) -> None:
    found = trained.decide("What are the symptoms of diabetes?")
    assert sum(found.scores.values()) == pytest.approx(1, abs=1e-3)
    assert found.scores["medical"] == pytest.approx(found.score, abs=1e-4)
    assert found.reason.startswith(f"medical {found.score:.2f}, ")


def test_below_the_threshold_it_abstains_and_says_so() -> None:
    routes = with_examples([], read_examples(BENCHMARKS / "routing_examples.jsonl"))
    strict = Classifier(routes, threshold=1.0)
    found = strict.decide("What are the symptoms of diabetes?")
    assert found.adapter == "base"
    assert found.reason.endswith("less than 1.00")


def test_two_labels_and_few_examples_are_enough() -> None:
    routes = [
        Route("medical", "Illness and medicine", examples=("What is a fever?", "Does aspirin help?")),
        Route("base", examples=("Tell me a joke", "Write a poem")),
    ]
    few = Classifier(routes)
    assert few.threshold == 0.5
    assert few.decide("Is a fever an illness?").adapter == "medical"
    assert few.decide("A joke or a poem").adapter == "base"


def test_without_examples_for_base_it_can_abstain_too() -> None:
    routes = [Route("a", examples=("alpha beta", "beta gamma")), Route("b", examples=("one two", "two three"))]
    found = Classifier(routes, threshold=0.99).decide("alpha two")
    assert (found.adapter, set(found.scores)) == ("base", {"a", "b"})


def test_one_label_is_refused_with_the_fix() -> None:
    with pytest.raises(ConfigInvalid, match="two names") as caught:
        Classifier([Route("medical", examples=("What is a fever?",))])
    assert "`base`" in caught.value.hint
