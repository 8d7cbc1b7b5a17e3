from __future__ import annotations

import json
from typing import Any

import pytest

from .conftest import App, Making
from .test_completions import events


@pytest.mark.asyncio(loop_scope="module")
async def test_a_conversation_is_answered(shared: App) -> None:
    reply = (await shared.chat(max_tokens=100)).json()
    choice = reply["choices"][0]
    assert choice["message"] == {"role": "assistant", "content": "base: user: hello\nassistant: "}
    assert (choice["finish_reason"], choice["stop_reason"], choice["logprobs"]) == ("stop", None, None)
    assert reply["object"] == "chat.completion"
    assert reply["id"].startswith("chatcmpl-")
    assert reply["usage"]["total_tokens"] == reply["usage"]["prompt_tokens"] + reply["usage"]["completion_tokens"]


@pytest.mark.asyncio(loop_scope="module")
async def test_without_a_limit_the_context_is_the_limit(shared: App) -> None:
    reply = (await shared.chat(ignore_eos=True)).json()
    assert reply["usage"]["total_tokens"] == 512
    assert reply["choices"][0]["finish_reason"] == "length"


@pytest.mark.asyncio(loop_scope="module")
async def test_max_completion_tokens_wins(shared: App) -> None:
    reply = (await shared.chat(max_tokens=100, max_completion_tokens=3)).json()
    assert reply["usage"]["completion_tokens"] == 3


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    ("messages", "rendered"),
    [
        ([{"role": "developer", "content": "be brief"}], "system: be brief"),
        ([{"role": "critic", "content": "hm"}], "critic: hm"),
        ([{"role": "user"}], "user: "),
        ([{"role": "user", "content": "hi", "name": "Ann"}], "user: hi"),
        ([{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}], "user: a\nb"),
        ([{"role": "user", "content": []}], "user: "),
        (
            [{"role": "assistant", "content": "hi", "refusal": None, "tool_calls": None, "annotations": []}],
            "assistant: hi",
        ),
    ],
)
async def test_turns_are_rendered(shared: App, messages: list[dict[str, Any]], rendered: str) -> None:
    body = {"messages": messages, "max_tokens": 100, "add_generation_prompt": False}
    reply = await shared.post("/v1/chat/completions", body)
    assert reply.json()["choices"][0]["message"]["content"] == f"base: {rendered}"


@pytest.mark.asyncio(loop_scope="module")
async def test_the_last_turn_can_be_continued(shared: App) -> None:
    reply = await shared.chat(continue_final_message=True, max_tokens=100)
    assert reply.json()["choices"][0]["message"]["content"] == "base: user: hello"


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({"messages": []}, "messages", "invalid_request"),
        ({"messages": None}, "messages", "invalid_request"),
        ({"messages": "hello"}, "messages", "invalid_request"),
        ({"messages": [{"content": "hi"}]}, "messages.0.role", "invalid_request"),
        ({"messages": [{"role": "user", "content": None}]}, "messages.0.content", "invalid_request"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages.0.content", "invalid_request"),
        (
            {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
            "messages.0.content.0.text",
            "invalid_request",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "messages.0.content.0",
            "unsupported",
        ),
        (
            {"messages": [{"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}]},
            "messages.0.tool_calls",
            "unsupported",
        ),
        ({"tools": [{"type": "function"}]}, "tools", "unsupported"),
        ({"functions": [{"name": "f"}]}, "functions", "unsupported"),
        ({"tool_choice": "required"}, "tool_choice", "unsupported"),
        ({"response_format": {"type": "json_schema", "json_schema": {}}}, "response_format", "invalid_request"),
        ({"response_format": {"type": "json_schema"}}, "response_format", "invalid_request"),
        ({"response_format": {"type": "yaml"}}, "response_format", "unsupported"),
        # The engine of these tests holds answers to no form.
        ({"response_format": {"type": "json_object"}}, "response_format", "unsupported"),
        ({"structured_outputs": {"choice": ["a"]}}, "structured_outputs", "unsupported"),
        ({"structured_outputs": {"choice": "a"}}, "structured_outputs", "invalid_request"),
        ({"structured_outputs": {"regexp": "a"}}, "structured_outputs", "invalid_request"),
        ({"modalities": ["text", "audio"]}, "modalities", "unsupported"),
        ({"echo": True}, "echo", "unsupported"),
        ({"top_logprobs": 2}, "top_logprobs", "invalid_request"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "invalid_request"),
        ({"logprobs": 5}, "logprobs", "invalid_request"),
        ({"n": 2, "temperature": 0}, "n", "invalid_request"),
        ({"temperature": 2.5}, "temperature", "invalid_request"),
        ({"max_completion_tokens": -1}, "max_completion_tokens", "invalid_request"),
        ({"max_tokens": 1000}, "max_tokens", "context_length_exceeded"),
        (
            {"continue_final_message": True, "add_generation_prompt": True},
            "continue_final_message",
            "invalid_request",
        ),
        ({"chat_template_kwargs": {"tokenize": False}}, "chat_template_kwargs.tokenize", "invalid_request"),
        ({"chat_template": "{{ x }}"}, "chat_template", "invalid_request"),
    ],
)
async def test_bad_input_is_a_400_that_names_the_field(
    shared: App, body: dict[str, Any], param: str, code: str
) -> None:
    for stream in (False, True):
        reply = await shared.chat(stream=stream, **body) if "messages" not in body else None
        if reply is None:
            reply = await shared.post("/v1/chat/completions", {"stream": stream, **body})
        error = reply.json()["error"]
        assert reply.status_code == 400
        assert (error["param"], error["code"]) == (param, code)


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    "body",
    [
        {"tools": []},
        {"tools": None, "tool_choice": "auto"},
        {"tool_choice": "none"},
        {"response_format": {"type": "text"}},
        {"modalities": ["text"]},
        {"logprobs": False, "top_logprobs": 0},
        {"chat_template_kwargs": {"enable_thinking": False}},
        {"function_call": "none", "stop": [], "logit_bias": {}, "user": "me", "store": False},
    ],
)
async def test_what_asks_for_nothing_special_passes(shared: App, body: dict[str, Any]) -> None:
    reply = await shared.chat(max_tokens=3, **body)
    assert reply.status_code == 200, reply.text


@pytest.mark.asyncio(loop_scope="module")
async def test_logprobs_are_told_for_each_token(shared: App) -> None:
    reply = (await shared.chat(max_tokens=5, logprobs=True, top_logprobs=2)).json()
    told = reply["choices"][0]["logprobs"]["content"]
    assert [each["token"] for each in told] == list("base:")
    assert all(len(each["top_logprobs"]) == 2 for each in told)
    reply = (await shared.chat(max_tokens=5, logprobs=True)).json()
    assert all(each["top_logprobs"] == [] for each in reply["choices"][0]["logprobs"]["content"])


async def test_a_stream_begins_with_the_role_and_ends_with_the_reason(app: App) -> None:
    digest = (await app.add("medical")).json()["digest"]
    reply = await app.chat(model="medical", max_tokens=100, stream=True, n=2)
    chunks = events(reply.text)
    assert [chunk["choices"][0]["index"] for chunk in chunks[:2]] == [0, 1]
    assert all(chunk["choices"][0]["delta"] == {"role": "assistant", "content": ""} for chunk in chunks[:2])
    for index in (0, 1):
        mine = [chunk["choices"][0] for chunk in chunks if chunk["choices"][0]["index"] == index]
        text = "".join(choice["delta"].get("content", "") for choice in mine)
        assert text == f"{digest[:8]}: user: hello\nassistant: "
        assert [choice["finish_reason"] for choice in mine][-2:] == [None, "stop"]
        assert mine[-1]["stop_reason"] is None
    assert {chunk["model"] for chunk in chunks} == {"medical"}
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert digest[:12] in chunks[0]["system_fingerprint"]
    assert reply.headers["x-loradex-adapter"] == "medical@1"


@pytest.mark.asyncio(loop_scope="module")
async def test_half_a_character_is_empty_text(shared: App) -> None:
    chunks = events((await shared.chat("ü", max_tokens=100, stream=True, logprobs=True)).text)
    tokens = [each for chunk in chunks for each in (chunk["choices"][0].get("logprobs") or {}).get("content", [])]
    assert "ü" in "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
    assert {"token": "", "bytes": []}.items() <= next(each for each in tokens if not each["bytes"]).items()


@pytest.mark.asyncio(loop_scope="module")
async def test_usage_comes_last_when_it_is_asked_for(shared: App) -> None:
    reply = await shared.chat(max_tokens=5, stream=True, stream_options={"include_usage": True})
    chunks = events(reply.text)
    assert all(chunk["usage"] is None for chunk in chunks[:-1])
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] == 5


async def test_a_chat_template_is_a_program_and_needs_an_admin(making: Making) -> None:
    app = await making(infer_keys=("use",), admin_keys=("rule",))
    body = {"messages": [{"role": "user", "content": "hi"}], "chat_template": "{{ x }}"}
    reply = await app.post("/v1/chat/completions", body, authorization="Bearer use")
    assert (reply.status_code, reply.json()["error"]["code"]) == (403, "insufficient_scope")
    reply = await app.post("/v1/chat/completions", body, authorization="Bearer rule")
    assert reply.status_code == 400  # the fake engine has no templates: it was asked


async def test_a_refused_request_leaves_nothing_behind(app: App) -> None:
    await app.add("medical")
    for body in ({"max_tokens": 1000}, {"n": 2, "temperature": 0}):
        await app.chat(model="medical", **body)
    assert app.deck.idle()


@pytest.mark.asyncio(loop_scope="module")
async def test_an_error_has_the_whole_envelope(shared: App) -> None:
    reply = await shared.post(
        "/v1/chat/completions", {"messages": [{"role": "user"}], "model": "nope"}, x_request_id="abc"
    )
    error = json.loads(reply.content)["error"]
    assert set(error) == {"message", "type", "param", "code", "hint", "request_id"}
    assert error["request_id"] == reply.headers["x-request-id"] == "abc"
