"""How people ask for the form of an answer."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

from loradex.core.grammar import MAX_CHARACTERS, Grammar, read_grammar
from loradex.core.sampling import Sampling
from loradex.errors import InvalidRequest, Unsupported


class Person(BaseModel):
    name: str


def test_a_schema_is_a_mapping_its_text_or_a_pydantic_model() -> None:
    schema = Person.model_json_schema()
    made = {read_grammar({"json": each}) for each in (schema, Person, Grammar.json(schema).text)}
    assert made == {Grammar.json(schema)}


@pytest.mark.parametrize(
    ("given", "kind", "text"),
    [
        ({"json_object": True}, "json", '{"type": "object"}'),
        ({"regex": "a+"}, "regex", "a+"),
        ({"choice": ["yes", "no"]}, "choice", '["yes", "no"]'),
        ({"grammar": 'root ::= "a"', "json": None, "json_object": False}, "grammar", 'root ::= "a"'),
        ({"regex": "a", "disable_any_whitespace": True}, "regex", "a"),
    ],
)
def test_the_words_of_vllm(given: dict[str, Any], kind: str, text: str) -> None:
    grammar = read_grammar(given)
    assert grammar is not None
    assert (grammar.kind, grammar.text) == (kind, text)


@pytest.mark.parametrize("nothing", [{}, {"json": None}, {"json_object": False}, {"disable_fallback": True}])
def test_what_asks_for_nothing_is_no_grammar(nothing: dict[str, Any]) -> None:
    assert read_grammar(nothing) is None


DEEP: list[Any] = []
for _ in range(100_000):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"jsn": {}}, "Did you mean `json`"),
        ({"json": {}, "regex": "a"}, "exclude one another"),
        ({"json": "{"}, "is not JSON"),
        ({"json": {"a": DEEP}}, "is not JSON"),
        ({"json": {"a": {1, 2}}}, "is not JSON"),
        ({"json": "[]"}, "no JSON schema"),
        ({"json": 5}, "no JSON schema"),
        ({"choice": []}, "choice"),
        ({"choice": ["a", 5]}, "choice"),
        ({"choice": "ab"}, "choice"),
        ({"regex": 5}, "regex"),
        ({"regex": ""}, "from 1 to"),
        ({"grammar": "a" * (MAX_CHARACTERS + 1)}, "from 1 to"),
        ({"json_object": "yes"}, "json_object"),
    ],
)
def test_what_is_no_form_is_refused_with_the_field(given: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        read_grammar(given, "guided_json")
    assert said in f"{refused.value} {refused.value.hint}"
    assert refused.value.param == "guided_json"


def test_what_is_understood_and_not_offered_says_so() -> None:
    with pytest.raises(Unsupported, match="structural_tag"):
        read_grammar({"structural_tag": "{}"})


def test_a_form_alone_says_when_the_answer_is_complete() -> None:
    with pytest.raises(InvalidRequest, match="min_tokens"):
        Sampling(min_tokens=3, grammar=Grammar("regex", "a"))
