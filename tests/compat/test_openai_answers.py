"""Answers, through the real package: whole and streamed, sync and async."""

from __future__ import annotations

import pytest
from openai import AsyncOpenAI, OpenAI

from tests.server.serving import eventually

from .conftest import INFER, House

ASK = [{"role": "user", "content": "hello"}]
ANSWER = "user: hello\nassistant: "


def test_chat(client: OpenAI, house: House) -> None:
    reply = client.chat.completions.create(model="medical", messages=ASK, max_tokens=100)  # type: ignore[arg-type]
    digest = house.digests["medical@2"]
    assert reply.choices[0].message.content == f"{digest[:8]}: {ANSWER}"
    assert reply.choices[0].finish_reason == "stop"
    assert reply.model == "medical"
    assert digest[:12] in (reply.system_fingerprint or "")
    assert reply.usage is not None
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens
    assert reply.id.startswith("chatcmpl-")
    assert reply._request_id is not None
    assert reply.id.endswith(reply._request_id)


@pytest.mark.parametrize("reference", ["medical@1", "medical@2", "legal", "tiny-base:legal", "legal@latest"])
def test_every_reference_answers_as_its_version(client: OpenAI, house: House, reference: str) -> None:
    raw = client.chat.completions.with_raw_response.create(model=reference, messages=ASK)  # type: ignore[arg-type]
    pinned = raw.headers["x-loradex-adapter"]
    assert pinned in house.digests
    text = raw.parse().choices[0].message.content or ""
    assert text.startswith(house.digests[pinned][:8])


def test_a_mix_by_name_and_by_field(client: OpenAI, house: House) -> None:
    mix = [{"name": "medical@1", "weight": 0.7}, {"name": "legal", "weight": 0.3}]
    ask = client.chat.completions.with_raw_response.create
    named = ask(model="medical@1*0.7+legal*0.3", messages=ASK)  # type: ignore[arg-type]
    field = ask(model="base", messages=ASK, extra_body={"adapters": mix})  # type: ignore[arg-type]
    for raw in (named, field):
        assert raw.headers["x-loradex-adapter"] == "medical@1*0.7+legal@1*0.3"
        text = raw.parse().choices[0].message.content or ""
        assert house.digests["medical@1"][:8] + "*0.7" in text
        assert house.digests["legal@1"][:8] + "*0.3" in text


def test_the_base_answers_under_its_names(client: OpenAI) -> None:
    for model in ("base", "tiny-base", ""):
        reply = client.completions.create(model=model, prompt="hi", max_tokens=20)
        assert (reply.choices[0].text, reply.model) == ("base: hi", "tiny-base")


def test_chat_stream(client: OpenAI, house: House) -> None:
    stream = client.chat.completions.create(
        model="medical",
        messages=ASK,  # type: ignore[arg-type]
        stream=True,
        n=2,
        stream_options={"include_usage": True},
    )
    said, ends, usage = ["", ""], {}, None
    for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            said[choice.index] += choice.delta.content or ""
            if choice.finish_reason:
                ends[choice.index] = choice.finish_reason
    assert said == [f"{house.digests['medical@2'][:8]}: {ANSWER}"] * 2
    assert ends == {0: "stop", 1: "stop"}
    assert usage is not None
    assert usage.completion_tokens == 2 * (len(said[0]) + 1)


def test_the_packages_own_stream_helper(client: OpenAI) -> None:
    with client.chat.completions.stream(model="base", messages=ASK, max_tokens=100) as stream:  # type: ignore[arg-type]
        kinds = {event.type for event in stream}
        final = stream.get_final_completion()
    assert {"chunk", "content.delta", "content.done"} <= kinds
    assert final.choices[0].message.content == f"base: {ANSWER}"


def test_the_helper_can_read_logprobs(client: OpenAI) -> None:
    with client.chat.completions.stream(
        model="base",
        messages=ASK,  # type: ignore[arg-type]
        max_tokens=100,
        logprobs=True,
        top_logprobs=2,
    ) as stream:
        for _ in stream:
            pass
        told = stream.get_final_completion().choices[0].logprobs
    assert told is not None
    assert told.content is not None
    assert "".join(token.token for token in told.content).startswith("base:")
    assert all(len(token.top_logprobs) == 2 for token in told.content)


def test_completions(client: OpenAI) -> None:
    reply = client.completions.create(model="base", prompt=["a", "b"], n=2, max_tokens=20, logprobs=1)
    assert [choice.text for choice in reply.choices] == ["base: a", "base: a", "base: b", "base: b"]
    told = reply.choices[0].logprobs
    assert told is not None
    assert told.tokens is not None
    assert "".join(told.tokens).startswith("base: a")


def test_completions_of_token_ids_with_everything_set(client: OpenAI) -> None:
    reply = client.completions.create(
        model="base",
        prompt=list(b"hey"),
        echo=True,
        max_tokens=20,
        temperature=0.5,
        top_p=0.9,
        presence_penalty=0.5,
        frequency_penalty=-0.5,
        seed=7,
        stop=["z"],
        logit_bias={"65": 5},
        user="me",
        extra_body={
            "top_k": 5,
            "min_p": 0.1,
            "repetition_penalty": 1.1,
            "min_tokens": 2,
            "ignore_eos": False,
            "stop_token_ids": [1],
            "skip_special_tokens": False,
            "include_stop_str_in_output": True,
        },
    )
    assert reply.choices[0].text == "heybase: hey<eos>"


def test_completion_stream(client: OpenAI) -> None:
    stream = client.completions.create(model="legal", prompt="hi", max_tokens=50, stream=True)
    chunks = list(stream)
    assert "".join(chunk.choices[0].text for chunk in chunks).endswith(": hi")
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert {chunk.model for chunk in chunks} == {"legal"}


def test_headers_of_a_stream(client: OpenAI) -> None:
    with client.chat.completions.with_streaming_response.create(
        model="medical",
        messages=ASK,  # type: ignore[arg-type]
        stream=True,
        extra_body={"best_before": "never"},
        extra_headers={"X-Request-Id": "mine"},
    ) as reply:
        assert reply.headers["x-loradex-adapter"] == "medical@2"
        assert reply.headers["x-loradex-ignored"] == "best_before"
        assert reply.headers["x-request-id"] == "mine"
        assert reply.headers["cache-control"] == "no-cache"
        assert reply.headers["x-accel-buffering"] == "no"


async def test_async(house: House) -> None:
    async with AsyncOpenAI(base_url=f"{house.deck.url}/v1", api_key=INFER, max_retries=0) as client:
        reply = await client.chat.completions.create(model="legal", messages=ASK)  # type: ignore[arg-type]
        text = ""
        stream = await client.chat.completions.create(model="legal", messages=ASK, stream=True)  # type: ignore[arg-type]
        async for chunk in stream:
            text += chunk.choices[0].delta.content or ""
        assert text == reply.choices[0].message.content
        assert text.startswith(house.digests["legal@1"][:8])


def test_a_stream_that_is_left_early_frees_everything(client: OpenAI, house: House) -> None:
    with client.chat.completions.create(model="legal", messages=ASK, stream=True) as stream:  # type: ignore[arg-type]
        next(iter(stream))
    assert eventually(house.deck.idle)


def test_models(client: OpenAI) -> None:
    cards = {card.id: card for card in client.models.list()}
    assert {"tiny-base", "medical", "legal"} <= set(cards)
    assert cards["legal"].owned_by == "loradex"
    assert cards["legal"].to_dict()["parent"] == "tiny-base"
    assert client.models.retrieve("medical@1").id == "medical@1"
    assert client.models.retrieve("tiny-base").to_dict()["max_model_len"] == 512
