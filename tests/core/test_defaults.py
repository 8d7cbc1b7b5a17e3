from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from loradex.core.defaults import MAX_CHARACTERS, NO_DEFAULTS, NUMBERS, Defaults, changed
from loradex.core.prompt import ChatPrompt, Message
from loradex.core.sampling import Sampling
from loradex.errors import InvalidRequest

FULL = Defaults("Be brief.", "{{ messages }}", {"temperature": 0.2, "max_tokens": 50, "seed": 7}, ("END", "\n"))
USER = Message("user", "hi")


@pytest.mark.parametrize("defaults", [FULL, NO_DEFAULTS, Defaults(stop=("x",)), Defaults(sampling={"top_k": 3})])
def test_what_is_written_as_json_is_read_again(defaults: Defaults) -> None:
    assert Defaults.read(json.loads(json.dumps(defaults.written()))) == defaults
    assert bool(defaults) == (defaults != NO_DEFAULTS)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"system": "x" * (MAX_CHARACTERS + 1)}, "system has 65537 characters"),
        ({"sampling": {"temperature": 3}}, "temperature is 3"),
        ({"sampling": {"temperature": "hot"}}, "temperature is 'hot', which is no float"),
        ({"sampling": {"temperature": float("nan")}}, "temperature is nan"),
        ({"sampling": {"seed": True}}, "seed is True"),
        ({"sampling": {"top_k": 1.5}}, "top_k is 1.5, which is no int"),
        ({"sampling": {"logprobs": 1}}, "`logprobs` cannot have a default"),
        ({"stop": ("",)}, "empty string"),
    ],
)
def test_what_cannot_be_a_default_is_named(values: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        Defaults(**values)


def test_every_number_is_a_field_of_sampling() -> None:
    assert set(NUMBERS) <= set(Sampling.__dataclass_fields__)


def test_a_conversation_gets_what_it_leaves_out() -> None:
    own = Message("system", "Be long.")
    assert FULL.prompt(ChatPrompt((USER,))) == ChatPrompt(
        (Message("system", "Be brief."), USER), template="{{ messages }}"
    )
    assert FULL.prompt(ChatPrompt((own, USER), template="mine")) == ChatPrompt((own, USER), template="mine")
    assert NO_DEFAULTS.prompt(ChatPrompt((USER,))) == ChatPrompt((USER,))
    assert FULL.prompt("text") == "text"
    assert FULL.prompt((1, 2)) == (1, 2)


def test_sampling_gets_what_was_not_given() -> None:
    asked = Sampling(temperature=1.0, max_tokens=16)
    assert FULL.sampled(asked, {"temperature"}, 100) == Sampling(
        temperature=1.0, max_tokens=50, seed=7, stop=("END", "\n")
    )
    assert FULL.sampled(asked, {*NUMBERS, "stop"}, 100) == asked
    assert NO_DEFAULTS.sampled(asked, (), 100) is asked


@pytest.mark.parametrize(("min_tokens", "max_model_len", "max_tokens"), [(0, 20, 20), (80, 100, 80), (0, 100, 50)])
def test_no_default_makes_a_request_impossible(min_tokens: int, max_model_len: int, max_tokens: int) -> None:
    asked = Sampling(min_tokens=min_tokens)
    assert FULL.sampled(asked, ("stop",), max_model_len).max_tokens == max_tokens


def test_changed_is_what_is_not_as_it_begins() -> None:
    assert changed(Sampling()) == frozenset()
    assert changed(replace(Sampling(), temperature=0.0, stop=("x",))) == {"temperature", "stop"}
