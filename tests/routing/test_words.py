from __future__ import annotations

import pytest

from loradex.errors import ConfigInvalid
from loradex.routing.route import Route
from loradex.routing.words import Words

# The words of the page from which keyword routers are known.
MEDICAL = Route("medical", words=("symptom", "drug", "doctor", "pain", "health"))
LEGAL = Route(
    "legal", words=("contract", "law", "court", "rights", "agreement"), patterns=(r"\bsue[sd]?\b", "§ ?[0-9]+")
)


@pytest.mark.parametrize(
    ("prompt", "adapter"),
    [
        ("What are the SYMPTOMS of flu?", "medical"),
        ("Is this agreement valid?", "legal"),
        ("What does § 12 say?", "legal"),
        ("Can I be sued?", "legal"),
        ("Paint the lawn flawlessly", "base"),  # parts of words are none
        ("Hello", "base"),
        ("", "base"),
    ],
)
def test_whole_words_in_any_case_and_patterns_decide(prompt: str, adapter: str) -> None:
    assert Words([MEDICAL, LEGAL, Route("base")]).decide(prompt).adapter == adapter


def test_most_words_win_and_ties_go_to_the_earlier_route() -> None:
    both = "The doctor broke the contract, and the court agreed"
    found = Words([MEDICAL, LEGAL]).decide(both)
    assert (found.adapter, found.scores) == ("legal", {"medical": 1 / 3, "legal": 2 / 3})
    assert found.score == 2 / 3
    assert found.reason == "words of medical: `doctor`; legal: `contract`, `court`"
    tie = "A doctor in court"
    assert Words([MEDICAL, LEGAL]).decide(tie).adapter == "medical"
    assert Words([LEGAL, MEDICAL]).decide(tie).adapter == "legal"


def test_a_share_below_the_threshold_abstains() -> None:
    found = Words([MEDICAL, LEGAL], threshold=0.6).decide("A doctor in court")
    assert (found.adapter, found.score) == ("base", 0.5)
    assert "several adapters" in found.reason


def test_what_cannot_decide_is_refused() -> None:
    with pytest.raises(ConfigInvalid, match="No route has words"):
        Words([Route("medical", examples=("What is a fever?",))])
    with pytest.raises(ConfigInvalid, match=r"pattern '\(' of `medical`"):
        Words([Route("medical", patterns=("(",))])
