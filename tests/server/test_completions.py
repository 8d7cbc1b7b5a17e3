from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from .conftest import App, Making
from .serving import save_adapter


def events(text: str) -> list[dict[str, Any]]:
    lines = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    assert lines.pop() == "[DONE]"
    return [json.loads(line) for line in lines]


@pytest.mark.asyncio(loop_scope="module")
async def test_the_base_answers_when_model_is_missing_null_or_empty(shared: App) -> None:
    for body in ({}, {"model": None}, {"model": ""}, {"model": "base"}, {"model": "tiny-base"}):
        reply = await shared.complete(max_tokens=40, **body)
        assert reply.json()["choices"][0]["text"] == "base: hello"
        assert reply.json()["model"] == "tiny-base"
        assert reply.headers["x-loradex-adapter"] == "base"
        assert reply.json()["system_fingerprint"].endswith("-base")


async def test_an_adapter_answers_and_says_so(app: App) -> None:
    digest = (await app.add("medical")).json()["digest"]
    reply = await app.complete(model="medical", max_tokens=40)
    assert reply.json()["choices"][0]["text"] == f"{digest[:8]}: hello"
    assert reply.json()["model"] == "medical"
    assert reply.headers["x-loradex-adapter"] == "medical@1"
    assert digest[:12] in reply.json()["system_fingerprint"]


async def test_an_unknown_model_is_a_404_with_near_names(app: App) -> None:
    await app.add("medical")
    reply = await app.complete(model="medcal")
    error = reply.json()["error"]
    assert reply.status_code == 404
    assert (error["code"], error["param"], error["type"]) == ("model_not_found", "model", "invalid_request_error")
    assert "medical" in error["hint"]


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("body", [{}, {"max_tokens": None}])
async def test_16_tokens_are_the_default(shared: App, body: dict[str, Any]) -> None:
    reply = await shared.complete(prompt="x" * 50, **body)
    assert reply.json()["usage"]["completion_tokens"] == 16
    assert reply.json()["choices"][0]["finish_reason"] == "length"


@pytest.mark.asyncio(loop_scope="module")
async def test_prompts_of_every_kind(shared: App) -> None:
    ids = list(b"hello")
    for prompt, count in (("hello", 1), (["hello", "hello"], 2), (ids, 1), ([ids, ids, ids], 3)):
        choices = (await shared.complete(prompt=prompt, max_tokens=40)).json()["choices"]
        assert [choice["text"] for choice in choices] == ["base: hello"] * count
        assert [choice["index"] for choice in choices] == list(range(count))


@pytest.mark.asyncio(loop_scope="module")
async def test_choices_are_numbered_by_prompt_then_answer(shared: App) -> None:
    reply = (await shared.complete(prompt=["a", "b"], n=2, max_tokens=40)).json()
    assert [choice["text"] for choice in reply["choices"]] == ["base: a", "base: a", "base: b", "base: b"]
    assert reply["usage"]["prompt_tokens"] == 2
    assert reply["usage"]["total_tokens"] == 2 + reply["usage"]["completion_tokens"]


@pytest.mark.asyncio(loop_scope="module")
async def test_echo_gives_the_prompt_back(shared: App) -> None:
    for prompt in ("hello", list(b"hello")):
        reply = await shared.complete(prompt=prompt, echo=True, max_tokens=40)
        assert reply.json()["choices"][0]["text"] == "hellobase: hello"
        stream = await shared.complete(prompt=prompt, echo=True, max_tokens=40, stream=True)
        assert "".join(event["choices"][0]["text"] for event in events(stream.text)) == "hellobase: hello"


@pytest.mark.asyncio(loop_scope="module")
async def test_echo_with_logprobs_tells_them_of_the_prompt_too_as_a_stream_does(shared: App) -> None:
    body = {"prompt": ["base", "abc"], "echo": True, "logprobs": 2, "max_tokens": 3}
    choices = (await shared.complete(**body)).json()["choices"]
    first, second = (choice["logprobs"] for choice in choices)
    assert [choice["text"] for choice in choices] == ["basebas", "abcbas"]
    assert first["tokens"] == list("basebas")
    assert first["text_offset"] == list(range(7))
    assert first["token_logprobs"] == [None, -0.1, -0.1, -0.1, -0.1, -0.1, -0.1]  # "ba", "as", "se" are in the label
    assert second["token_logprobs"] == [None, -1.0, -1.0, -0.1, -0.1, -0.1]
    assert first["top_logprobs"][:2] == [None, {"a": -0.1, "b": -1.1}]
    assert set(choices[0]["prompt_logprobs"][1]) == {str(ord("a")), str(ord("b"))}
    said = [""] * 2
    told: list[list[float | None]] = [[], []]
    offsets: list[list[int]] = [[], []]
    for event in events((await shared.complete(**body, stream=True)).text):
        [choice] = event["choices"]
        said[choice["index"]] += choice["text"]
        if choice["logprobs"]:
            told[choice["index"]] += choice["logprobs"]["token_logprobs"]
            offsets[choice["index"]] += choice["logprobs"]["text_offset"]
    assert said == ["basebas", "abcbas"]
    assert told == [first["token_logprobs"], second["token_logprobs"]]
    assert offsets == [first["text_offset"], second["text_offset"]]


@pytest.mark.asyncio(loop_scope="module")
async def test_no_tokens_with_echo_is_the_prompt_alone(shared: App) -> None:
    for stream in (False, True):
        reply = await shared.complete(prompt="abc", echo=True, max_tokens=0, logprobs=1, stream=stream)
        chunks = events(reply.text) if stream else [reply.json()]
        assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == "abc"
        assert chunks[0]["choices"][0]["logprobs"]["tokens"] == ["a", "b", "c"]
        assert chunks[-1]["choices"][0]["finish_reason"] == "length"
        assert not any(chunk["choices"][0]["logprobs"] for chunk in chunks[1:])


@pytest.mark.asyncio(loop_scope="module")
async def test_prompt_logprobs_have_ranks_and_are_keyed_by_token(shared: App) -> None:
    b = {"logprob": -1.0, "rank": 1, "decoded_token": "b"}
    c = {"logprob": -1.1, "rank": 2, "decoded_token": "c"}
    [choice] = (await shared.complete(prompt="ab", prompt_logprobs=2, max_tokens=1)).json()["choices"]
    assert choice["prompt_logprobs"] == [None, {"98": b, "99": c}]
    assert choice["logprobs"] is None
    assert (await shared.complete(prompt="a", prompt_logprobs=0)).json()["choices"][0]["prompt_logprobs"] == [None]
    assert (await shared.complete()).json()["choices"][0]["prompt_logprobs"] is None
    chat = (await shared.chat("ab", prompt_logprobs=0, max_tokens=1)).json()
    assert chat["prompt_logprobs"][0] is None
    assert [len(each) for each in chat["prompt_logprobs"][1:]] == [1] * (chat["usage"]["prompt_tokens"] - 1)
    refused = await shared.complete(prompt_logprobs=1, stream=True)
    assert refused.json()["error"]["message"] == "`prompt_logprobs` are not available when `stream=True`."


@pytest.mark.asyncio(loop_scope="module")
async def test_a_stop_string_ends_the_answer(shared: App) -> None:
    choice = (await shared.complete(stop="ell", max_tokens=40)).json()["choices"][0]
    assert (choice["text"], choice["finish_reason"], choice["stop_reason"]) == ("base: h", "stop", "ell")
    choice = (await shared.complete(stop=["ell"], include_stop_str_in_output=True, max_tokens=40)).json()["choices"][0]
    assert choice["text"] == "base: hell"


@pytest.mark.asyncio(loop_scope="module")
async def test_a_stop_token_is_told_by_its_id(shared: App) -> None:
    choice = (await shared.complete(stop_token_ids=[ord(":")], max_tokens=40)).json()["choices"][0]
    assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", ord(":"))


@pytest.mark.asyncio(loop_scope="module")
async def test_logprobs_have_one_entry_a_token(shared: App) -> None:
    reply = (await shared.complete(logprobs=2, max_tokens=5)).json()
    told = reply["choices"][0]["logprobs"]
    assert "".join(told["tokens"]) == "base:"
    assert told["text_offset"] == [0, 1, 2, 3, 4]
    stream = events((await shared.complete(logprobs=2, max_tokens=5, stream=True)).text)
    parts = [event["choices"][0]["logprobs"] for event in stream if event["choices"][0]["logprobs"]]
    assert [offset for part in parts for offset in part["text_offset"]] == [0, 1, 2, 3, 4]


async def test_a_stream_says_the_same_and_ends_with_a_reason(app: App) -> None:
    await app.add("medical")
    for model in ("base", "medical"):
        whole = (await app.complete(model=model, max_tokens=40)).json()["choices"][0]
        reply = await app.complete(model=model, max_tokens=40, stream=True)
        chunks = events(reply.text)
        assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == whole["text"]
        assert [chunk["choices"][0]["finish_reason"] for chunk in chunks][-2:] == [None, "stop"]
        assert reply.headers["content-type"].startswith("text/event-stream")
        assert reply.headers["x-loradex-adapter"] == ("base" if model == "base" else "medical@1")
        assert not any("usage" in chunk for chunk in chunks)


@pytest.mark.asyncio(loop_scope="module")
async def test_a_stream_of_several_prompts_mixes_its_choices(shared: App) -> None:
    chunks = events((await shared.complete(prompt=["a", "b"], n=2, max_tokens=40, stream=True)).text)
    said = [""] * 4
    for chunk in chunks:
        said[chunk["choices"][0]["index"]] += chunk["choices"][0]["text"]
    assert said == ["base: a", "base: a", "base: b", "base: b"]


@pytest.mark.asyncio(loop_scope="module")
async def test_usage_comes_last_when_it_is_asked_for(shared: App) -> None:
    options = {"include_usage": True}
    chunks = events((await shared.complete(max_tokens=40, stream=True, stream_options=options)).text)
    assert all(chunk["usage"] is None for chunk in chunks[:-1])
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] == len("base: hello") + 1
    options = {"include_usage": True, "continuous_usage_stats": True}
    chunks = events((await shared.complete(max_tokens=40, stream=True, stream_options=options)).text)
    assert [chunk["usage"]["completion_tokens"] for chunk in chunks[:3]] == [1, 2, 3]


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({"prompt": ""}, "prompt", "invalid_request"),
        ({"prompt": []}, "prompt", "invalid_request"),
        ({"prompt": [""]}, "prompt", "invalid_request"),
        ({"prompt": [[]]}, "prompt", "invalid_request"),
        ({"prompt": None}, "prompt", "invalid_request"),
        ({"prompt": {"a": 1}}, "prompt", "invalid_request"),
        ({"prompt": ["a", 1]}, "prompt", "invalid_request"),
        ({"prompt": [-1]}, "prompt", "invalid_request"),
        ({"prompt": [10**12]}, "prompt", "invalid_request"),
        ({"prompt": ["x"] * 2049}, "prompt", "invalid_request"),
        ({"prompt": "x" * 600}, "prompt", "context_length_exceeded"),
        ({"max_tokens": -1}, "max_tokens", "invalid_request"),
        ({"max_tokens": 0}, "max_tokens", "invalid_request"),
        ({"max_tokens": "5"}, "max_tokens", "invalid_request"),
        ({"max_tokens": 513}, "max_tokens", "context_length_exceeded"),
        ({"min_tokens": 20}, "min_tokens", "invalid_request"),
        ({"temperature": 2.1}, "temperature", "invalid_request"),
        ({"temperature": "hot"}, "temperature", "invalid_request"),
        ({"top_p": 0}, "top_p", "invalid_request"),
        ({"n": 2, "temperature": 0}, "n", "invalid_request"),
        ({"n": 0}, "n", "invalid_request"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop", "invalid_request"),
        ({"stop": [""]}, "stop", "invalid_request"),
        ({"stop": 5}, "stop", "invalid_request"),
        ({"stop_token_ids": [257]}, "stop_token_ids", "invalid_request"),
        ({"logit_bias": {"x": 1}}, "logit_bias", "invalid_request"),
        ({"logit_bias": {"257": 1}}, "logit_bias", "invalid_request"),
        ({"logit_bias": {"5": 101}}, "logit_bias", "invalid_request"),
        ({"logprobs": 21}, "logprobs", "invalid_request"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "invalid_request"),
        ({"prompt_logprobs": -1}, "prompt_logprobs", "invalid_request"),
        ({"prompt_logprobs": 21}, "prompt_logprobs", "invalid_request"),
        ({"json_schema": "{}", "regex": "a"}, "regex", "invalid_request"),
        ({"json_schema": "{"}, "json_schema", "invalid_request"),
        ({"response_format": {"type": "ebnf"}}, "response_format", "invalid_request"),
        ({"response_format": {"type": "structural_tag"}}, "response_format", "unsupported"),
        ({"stop_regex": "a"}, "stop_regex", "unsupported"),
        ({"best_of": 2}, "best_of", "unsupported"),
        ({"suffix": "end"}, "suffix", "unsupported"),
        ({"response_format": {"type": "json_object"}}, "response_format", "unsupported"),
        ({"guided_json": {}, "guided_regex": "a"}, "guided_regex", "invalid_request"),
        ({"guided_json": 5}, "guided_json", "invalid_request"),
        ({"guided_regex": "a", "min_tokens": 2}, "min_tokens", "invalid_request"),
        ({"model": 5}, "model", "invalid_request"),
    ],
)
async def test_bad_input_is_a_400_that_names_the_field(
    shared: App, body: dict[str, Any], param: str, code: str
) -> None:
    for stream in (False, True):
        reply = await shared.complete(**body, **({"stream": True} if stream and "stream_options" not in body else {}))
        error = reply.json()["error"]
        assert reply.status_code == 400
        assert (error["param"], error["code"]) == (param, code)
        assert error["message"]
        assert error["hint"]


@pytest.mark.asyncio(loop_scope="module")
async def test_what_merely_does_not_fit_beside_the_prompt_is_cut(shared: App) -> None:
    reply = (await shared.complete(prompt="x" * 500, max_tokens=100)).json()
    assert reply["usage"]["completion_tokens"] == 12


@pytest.mark.asyncio(loop_scope="module")
async def test_unknown_fields_are_ignored_and_named(shared: App) -> None:
    reply = await shared.complete(frobnicate=1, metadata={}, user="me", suffix=None, best_of=1)
    assert reply.status_code == 200
    assert reply.headers["x-loradex-ignored"] == "frobnicate, metadata, suffix"


async def test_unknown_fields_are_refused_when_strict(making: Making) -> None:
    app = await making(strict=True)
    reply = await app.complete(frobnicate=1)
    assert reply.status_code == 400
    assert "frobnicate" in reply.json()["error"]["message"]


@pytest.mark.asyncio(loop_scope="module")
async def test_the_request_id_becomes_the_completions_id(shared: App) -> None:
    bodies = await asyncio.gather(*(shared.post("/v1/completions", {"prompt": "a"}, x_request_id="mine") for _ in "ab"))
    for reply in bodies:
        assert reply.json()["id"] == "cmpl-mine"
        assert reply.headers["x-request-id"] == "mine"


async def test_a_failure_on_the_way_is_a_500_or_an_event(app: App) -> None:
    digest = (await app.add("medical")).json()["digest"]
    app.deck.engine.fail_answer.add(digest)
    reply = await app.complete(model="medical")
    assert reply.status_code == 500
    assert reply.json()["error"]["code"] == "engine_failed"
    stream = await app.complete(model="medical", stream=True)
    assert stream.status_code == 200
    assert json.loads(stream.text.removeprefix("data: "))["error"]["code"] == "engine_failed"
    assert app.deck.idle()


async def test_of_those_who_wait_the_lower_priority_number_is_served_first(making: Making) -> None:
    app = await making(max_loras=1, tokens_per_second=200.0)
    for seed, name in enumerate(("two", "three", "one")):
        await app.add(name, seed=seed)
    order: list[str] = []

    async def ask(model: str, **more: object) -> None:
        assert (await app.complete(model=model, max_tokens=8, **more)).status_code == 200
        order.append(model)

    first = asyncio.create_task(ask("one"))
    while not app.deck.leases():
        await asyncio.sleep(0)
    await asyncio.gather(first, ask("two", priority=5), ask("three", priority=-5))
    assert order == ["one", "three", "two"]


async def test_no_slot_in_time_is_a_503_that_says_to_come_back(making: Making) -> None:
    app = await making(max_loras=1, tokens_per_second=20.0)
    await app.add("one")
    asking = asyncio.create_task(app.complete(model="one", prompt="x" * 80, max_tokens=60))
    while not app.deck.leases():
        await asyncio.sleep(0)
    folder = save_adapter(app.deck.folder / "two", seed=2)
    reply = await app.post("/api/adapters", {"name": "two", "path": str(folder)})
    assert reply.status_code == 503
    assert reply.headers["retry-after"] == "1"
    assert reply.json()["error"]["type"] == "server_error"
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    assert app.deck.idle()
