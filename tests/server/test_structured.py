"""Answers in a form that was asked for, over HTTP, by the real client from the real engine."""

from __future__ import annotations

import json
import re

import httpx
import openai
import pytest
from openai import OpenAI
from pydantic import BaseModel, Field

ASK = [{"role": "user", "content": "What is a normal resting heart rate for adults?"}]


class Advice(BaseModel):
    topic: str = Field(max_length=20)
    urgent: bool
    score: int = Field(ge=1, le=5)


@pytest.fixture(scope="module")
def client(demo: str) -> OpenAI:
    return OpenAI(base_url=f"{demo}/v1", api_key="none", max_retries=0)


@pytest.mark.parametrize("model", ["base", "medical"])
def test_the_client_parses_into_its_own_model(client: OpenAI, model: str) -> None:
    parsed = client.chat.completions.parse(model=model, messages=ASK, response_format=Advice, seed=1)
    assert isinstance(parsed.choices[0].message.parsed, Advice)
    assert parsed.choices[0].finish_reason == "stop"


def test_a_stream_and_a_completion_keep_to_it_too(client: OpenAI) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "advice", "schema": Advice.model_json_schema()}}
    pieces = client.chat.completions.create(model="medical", messages=ASK, response_format=form, seed=2, stream=True)
    Advice.model_validate_json("".join(piece.choices[0].delta.content or "" for piece in pieces))
    done = client.completions.create(
        model="base", prompt="Hello", n=3, max_tokens=150, extra_body={"response_format": form}, seed=3
    )
    assert [Advice.model_validate_json(choice.text) for choice in done.choices]


@pytest.mark.parametrize(
    ("body", "pattern"),
    [
        ({"structured_outputs": {"choice": ["fever", "cough"]}}, "fever|cough"),
        ({"guided_regex": "[A-F][0-9]{2}"}, "[A-F][0-9]{2}"),
        ({"guided_choice": ["one", "two"]}, "one|two"),
        ({"guided_grammar": 'root ::= "yes" | "no"'}, "yes|no"),
        ({"regex": "[A-F][0-9]{2}"}, "[A-F][0-9]{2}"),
        ({"ebnf": 'root ::= "yes" | "no"'}, "yes|no"),
        ({"json_schema": '{"enum": ["fever", "cough"]}'}, '"(fever|cough)"'),
        ({"json_schema": {"enum": [1, 2]}, "grammar": ""}, "1|2"),
        ({"grammar": 'root ::= answer "."\nanswer ::= [a-c]+ | "none"'}, r"([a-c]+|none)\."),
        ({"response_format": {"type": "regex", "regex": "[A-F][0-9]"}}, "[A-F][0-9]"),
        ({"response_format": {"type": "ebnf", "ebnf": 'root ::= "yes" | "no"'}}, "yes|no"),
        ({"response_format": {"type": "json", "schema": {"enum": ["a", "b"]}}}, '"(a|b)"'),
        ({"response_format": {"type": "json_object", "schema": {"enum": ["a", "b"]}}}, '"(a|b)"'),
    ],
)
def test_the_words_of_each_dialect(client: OpenAI, body: dict[str, object], pattern: str) -> None:
    answer = client.chat.completions.create(model="medical", messages=ASK, extra_body=body)
    assert re.fullmatch(pattern, answer.choices[0].message.content or "")


@pytest.mark.parametrize(
    ("body", "pattern"),
    [({"grammar": 'root ::= "yes" | "no"'}, "yes|no"), ({"json_schema": {"enum": ["a", "b"]}}, '"(a|b)"')],
)
def test_a_form_on_llamacpps_route(demo: str, body: dict[str, object], pattern: str) -> None:
    answer = httpx.post(f"{demo}/completion", json={"prompt": "Hello", "n_predict": 20, "seed": 1, **body})
    assert re.fullmatch(pattern, answer.json()["content"])


@pytest.mark.parametrize(
    ("parameters", "pattern"),
    [
        ({"response_format": {"type": "json_object", "schema": {"enum": ["a", "b"]}}}, '"(a|b)"'),
        ({"grammar": {"type": "regex", "value": "[A-F][0-9]"}}, "[A-F][0-9]"),
        ({"grammar": {"type": "json", "value": {"enum": ["a", "b"]}}}, '"(a|b)"'),
    ],
)
def test_a_form_on_loraxs_route(demo: str, parameters: dict[str, object], pattern: str) -> None:
    body = {"inputs": "Hello", "parameters": {"adapter_id": "medical", "max_new_tokens": 20, **parameters}}
    assert re.fullmatch(pattern, httpx.post(f"{demo}/generate", json=body).json()["generated_text"])


def test_any_object_is_one_or_cut_at_the_limit(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model="base", messages=ASK, response_format={"type": "json_object"}, seed=4, max_tokens=300
    )
    text = answer.choices[0].message.content or ""
    assert text.startswith("{")
    if answer.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(text), dict)


def test_a_schema_with_a_mistake_is_a_400_that_names_field_and_reason(client: OpenAI) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "array", "uniqueItems": True}}}
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError, match="uniqueItems") as caught:
            client.chat.completions.create(model="base", messages=ASK, response_format=form, stream=stream)
        assert caught.value.param == "response_format"
