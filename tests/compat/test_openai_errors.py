"""Every error, through the real package: the right class, with a code that programs can use."""

from __future__ import annotations

from typing import Any

import openai
import pytest
from openai import OpenAI

from .conftest import House

ASK: Any = [{"role": "user", "content": "hello"}]


def code_of(error: openai.APIStatusError) -> str:
    assert isinstance(error.body, dict)
    assert {"message", "type", "param", "code", "hint", "request_id"} <= set(error.body)
    assert error.body["request_id"] == error.request_id
    return str(error.body["code"])


@pytest.mark.parametrize("key", ["wrong", "key-infe", "key-inferr"])
def test_a_wrong_key_is_an_authentication_error(house: House, key: str) -> None:
    for call in (
        lambda client: client.models.list(),
        lambda client: client.chat.completions.create(model="base", messages=ASK),
        lambda client: client.chat.completions.create(model="base", messages=ASK, stream=True),
    ):
        with pytest.raises(openai.AuthenticationError) as caught:
            call(house.client(key))
        assert code_of(caught.value) == "invalid_api_key"


def test_a_key_without_the_scope_is_a_permission_error(client: OpenAI) -> None:
    with pytest.raises(openai.PermissionDeniedError) as caught:
        client.chat.completions.create(model="base", messages=ASK, extra_body={"chat_template": "{{ 1 }}"})
    assert code_of(caught.value) == "insufficient_scope"
    with pytest.raises(openai.PermissionDeniedError):
        client.post("/load_lora_adapter", body={"lora_name": "a", "lora_path": "b"}, cast_to=str)


def test_an_unknown_model_is_not_found_and_never_the_base(client: OpenAI) -> None:
    for call in (
        lambda: client.chat.completions.create(model="medicl", messages=ASK),
        lambda: client.chat.completions.create(model="medicl", messages=ASK, stream=True),
        lambda: client.completions.create(model="medicl", prompt="a"),
        lambda: client.completions.create(model="medical@9", prompt="a"),
        lambda: client.completions.create(model="medical@sha256:0000", prompt="a"),
        lambda: client.models.retrieve("medicl"),
    ):
        with pytest.raises(openai.NotFoundError) as caught:
            call()
        assert code_of(caught.value) == "model_not_found"
    assert "medical" in caught.value.body["hint"]  # type: ignore[index]


def test_an_unknown_route_is_not_found(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.embeddings.create(model="base", input="a")
    assert caught.value.body == {"detail": "Not Found"}


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({"temperature": 3}, "temperature", "invalid_request"),
        ({"temperature": "warm"}, "temperature", "invalid_request"),
        ({"max_tokens": -5}, "max_tokens", "invalid_request"),
        ({"max_tokens": 100_000}, "max_tokens", "context_length_exceeded"),
        ({"messages": [{"role": "user", "content": "x" * 1000}]}, "prompt", "context_length_exceeded"),
        ({"messages": [{"role": "user", "content": None}]}, "messages.0.content", "invalid_request"),
        ({"stop": list("abcde")}, "stop", "invalid_request"),
        ({"n": 2, "temperature": 0}, "n", "invalid_request"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools", "unsupported"),
        ({"response_format": {"type": "json_object"}}, "response_format", "unsupported"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "invalid_request"),
    ],
)
def test_a_bad_request_names_its_field(client: OpenAI, body: dict[str, Any], param: str, code: str) -> None:
    for stream in (False, True):
        if stream and "stream_options" in body:
            continue
        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(**{"model": "base", "messages": ASK, "stream": stream, **body})
        assert code_of(caught.value) == code
        assert caught.value.param == param


def test_a_failure_in_a_stream_is_an_error_of_the_package(client: OpenAI, house: House) -> None:
    digest = house.digests["legal@1"]
    house.deck.engine.fail_answer.add(digest)
    try:
        with pytest.raises(openai.InternalServerError) as whole:
            client.chat.completions.create(model="legal", messages=ASK)
        assert code_of(whole.value) == "engine_failed"
        with pytest.raises(openai.APIError) as streamed:
            list(client.chat.completions.create(model="legal", messages=ASK, stream=True))
        assert streamed.value.code == "engine_failed"
    finally:
        house.deck.engine.fail_answer.discard(digest)
    assert house.deck.idle()


def test_vllms_routes_through_the_packages_transport(house: House) -> None:
    admin = house.client("key-admin")
    folder = str(house.deck.folder / "legal-3")
    for path, body, said in (
        ("/load_lora_adapter", {"lora_name": "sql", "lora_path": folder}, "added"),
        ("/unload_lora_adapter", {"lora_name": "sql"}, "removed"),
    ):
        reply = admin.post(path, body=body, cast_to=str)
        assert reply == f"Success: LoRA adapter 'sql' {said} successfully."
    with pytest.raises(openai.NotFoundError) as caught:
        admin.post("/unload_lora_adapter", body={"lora_name": "sql"}, cast_to=str)
    assert caught.value.body == {
        "message": "The lora adapter 'sql' cannot be found.",
        "type": "NotFoundError",
        "param": None,
        "code": 404,
    }
    with pytest.raises(openai.AuthenticationError):
        house.client("nobody").post("/unload_lora_adapter", body={"lora_name": "sql"}, cast_to=str)
