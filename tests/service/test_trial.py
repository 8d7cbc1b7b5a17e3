from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loradex.core.adapter import AdapterRef
from loradex.service.trial import Rule, Trials

NEW = AdapterRef("medical", 4, "d" * 64)
RULE = Rule(requests=10, share=0.3, seconds=60)


def play(trials: Trials, outcomes: list[str], *, now: float = 0.0, canary: bool = False) -> list[int]:
    """Return after which outcomes there was a verdict."""
    return [
        index for index, outcome in enumerate(outcomes) if trials.observe(NEW, outcome, now, canary=canary) is not None
    ]


def begun() -> Trials:
    trials = Trials(RULE)
    trials.begin(NEW, 0.0)
    return trials


def test_too_many_failures_over_enough_requests_are_a_verdict_once() -> None:
    trials = begun()
    assert play(trials, ["engine_failed"] * 9) == []
    verdict = trials.observe(NEW, "engine_failed", 1.0, canary=False)
    assert verdict is not None
    assert str(verdict) == "10 of its last 10 requests failed"
    assert play(trials, ["engine_failed"] * 20) == []


def test_as_many_as_may_fail_are_none() -> None:
    assert play(begun(), (["stop"] * 7 + ["adapter_damaged"] * 3) * 10) == []
    assert play(begun(), ["stop"] * 50 + ["internal_error"] * 4) == [53]


def test_only_the_last_requests_count() -> None:
    assert play(begun(), ["length"] * 1000 + ["engine_failed"] * 4) == [1003]
    assert play(begun(), (["engine_failed"] * 3 + ["stop"] * 7) * 100) == []


@pytest.mark.parametrize("outcome", ["abort", "overloaded", "invalid_request", "engine_stopped", "model_not_found"])
def test_what_a_version_cannot_help_is_not_counted(outcome: str) -> None:
    assert play(begun(), [outcome] * 100) == []
    assert play(begun(), [outcome, "engine_failed"] * 10) == [19]


def test_a_replaced_version_is_looked_at_for_a_while_only() -> None:
    assert play(begun(), ["engine_failed"] * 20, now=60.0) == [9]
    assert play(begun(), ["engine_failed"] * 20, now=60.1) == []
    assert play(Trials(RULE), ["engine_failed"] * 20) == []


def test_a_canary_is_looked_at_as_long_as_it_runs() -> None:
    trials = Trials(RULE)
    assert play(trials, ["stop"] * 20, now=1e9, canary=True) == []
    assert play(trials, ["engine_failed"] * 4, now=2e9, canary=True) == [3]
    trials = Trials(RULE)
    assert play(trials, ["engine_failed"] * 9, canary=True) == []
    assert play(trials, ["engine_failed"] * 9) == []  # it is no canary any more: what was counted is forgotten
    assert play(trials, ["engine_failed"] * 9, canary=True) == []


def test_a_name_has_one_version_on_trial() -> None:
    trials = begun()
    play(trials, ["engine_failed"] * 9)
    trials.begin(AdapterRef("medical", 5, "e" * 64), 1.0)
    assert play(trials, ["engine_failed"] * 20) == []


def test_a_share_of_one_never_rolls_back() -> None:
    trials = Trials(Rule(requests=5, share=1.0))
    trials.begin(NEW, 0.0)
    assert play(trials, ["engine_failed"] * 100) == []


@given(st.lists(st.booleans(), max_size=60))
def test_the_verdict_falls_at_the_first_window_that_is_too_bad(failed: list[bool]) -> None:
    size, limit = RULE.requests, RULE.requests * RULE.share
    bad = [end - 1 for end in range(size, len(failed) + 1) if sum(failed[end - size : end]) > limit]
    assert play(begun(), ["engine_failed" if each else "stop" for each in failed]) == bad[:1]
