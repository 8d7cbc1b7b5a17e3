from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from .conftest import App, running
from .test_completions import events

ROUTER = """
routes:
  medical: {words: [symptom], system_prompt: Speak as a nurse.}
  legal: {words: [contract, größe], sampling: {max_tokens: 3, temperature: 0}}
  base: {system_prompt: Speak as a clerk.}
"""


@pytest.fixture
def router(tmp_path: Path) -> Path:
    path = tmp_path / "router.yaml"
    path.write_text(ROUTER)
    return path


@pytest_asyncio.fixture
async def routed(tmp_path: Path, router: Path) -> AsyncIterator[App]:
    async with running(tmp_path, router=router) as app:
        await app.add("medical")
        yield app


@pytest.mark.parametrize("stream", [False, True])
async def test_auto_takes_the_adapter_of_the_prompt_and_says_why(routed: App, stream: bool) -> None:
    for reply in (
        await routed.chat("Which symptoms?", model="auto", stream=stream),
        await routed.complete(prompt="Which symptoms?", model="auto", stream=stream),
    ):
        assert reply.status_code == 200, reply.text
        assert reply.headers["x-loradex-adapter"] == "medical@1"
        why = "medical; score=1.00; policy=words; why=matched; words of medical: `symptom`"
        assert reply.headers["x-loradex-route"] == why
        assert (events(reply.text)[0] if stream else reply.json())["model"] == "medical"


async def test_what_fits_no_adapter_is_left_to_the_base(routed: App) -> None:
    reply = await routed.chat("Hello", model="auto")
    assert reply.headers["x-loradex-adapter"] == "base"
    assert reply.headers["x-loradex-route"].startswith("base; score=1.00")
    assert "x-loradex-route" not in (await routed.chat("Hello", model="base")).headers


async def test_a_conversation_is_routed_by_its_last_question_and_opened_by_the_domains_prompt(routed: App) -> None:
    turns = [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "A contract?"},
        {"role": "user", "content": "A symptom"},
    ]
    opened = await routed.post("/v1/chat/completions", {"model": "auto", "messages": turns})
    assert opened.headers["x-loradex-adapter"] == "medical@1"
    own = [{"role": "system", "content": "Speak as a nurse."}, *turns]
    for messages in (own, [{"role": "system", "content": "Be brief."}, *turns]):
        reply = await routed.post("/v1/chat/completions", {"model": "auto", "messages": messages})
        same = reply.json()["usage"]["prompt_tokens"] == opened.json()["usage"]["prompt_tokens"]
        assert same == (messages is own)  # a system message of the client's own is left alone


async def test_the_route_decides_without_answering(routed: App) -> None:
    reply = await routed.post("/api/route", {"text": "Which symptoms?"})
    assert reply.json() == {
        "adapter": "medical",
        "score": 1.0,
        "reason": "words of medical: `symptom`",
        "scores": {"medical": 1.0},
        "policy": "words",
        "why": "matched",
    }
    assert (await routed.post("/api/route", {})).status_code == 400
    metrics = (await routed.client.get("/metrics")).text
    assert 'loradex_route_decisions_total{adapter="medical",policy="words",why="matched"} 1.0' in metrics


async def test_a_domains_sampling_holds_where_the_request_says_nothing(routed: App) -> None:
    await routed.add("legal", seed=1)
    for asked, tokens in (({}, 3), ({"max_tokens": 5}, 5)):
        reply = await routed.chat("A contract", model="auto", **asked)
        assert reply.json()["usage"]["completion_tokens"] == tokens


async def test_a_new_adapter_is_routed_to_without_a_restart_and_a_removed_one_no_more(routed: App) -> None:
    async def taken() -> str:
        return str((await routed.chat("Größe", model="auto")).headers["x-loradex-adapter"])

    assert await taken() == "base"
    await routed.add("legal", seed=1)
    assert await taken() == "legal@1"
    assert (await routed.chat("Größe", model="auto")).headers["x-loradex-route"].endswith(r"`gr\xf6\xdfe`")
    await routed.client.delete("/api/adapters/legal")
    assert await taken() == "base"


async def test_new_examples_in_a_file_train_the_router_without_a_restart(tmp_path: Path, router: Path) -> None:
    rows = [
        *({"text": f"fever and cough {index}", "label": "medical"} for index in range(4)),
        *({"text": f"joke and poem {index}", "label": "base"} for index in range(4)),
    ]
    file = tmp_path / "prompts.jsonl"
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    router.write_text("routes: {medical: {examples: prompts.jsonl}, base: {examples: prompts.jsonl}}")
    async with running(tmp_path, router=router) as app:
        await app.add("medical")

        async def taken(text: str) -> str:
            return str((await app.post("/api/route", {"text": text})).json()["adapter"])

        assert await taken("a fever") == "medical"
        assert await taken("zebra quiz") == "base"
        more = [{"text": f"zebra quiz {index}", "label": "medical"} for index in range(4)]
        file.write_text("".join(f"{json.dumps(row)}\n" for row in (*rows, *more)))
        assert await taken("zebra quiz") == "medical"
        router.write_text("routes: [")  # a slip: what worked goes on
        os.utime(router, ns=(1, 1))
        assert await taken("a fever") == "medical"


@pytest.mark.parametrize("prompt", [[1, 2, 3], [[1, 2], [3]]])
async def test_tokens_cannot_be_routed(routed: App, prompt: object) -> None:
    reply = await routed.complete(prompt=prompt, model="auto")
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == "model"


async def test_without_a_router_auto_is_no_model_and_never_a_name(app: App) -> None:
    for reply in (await app.chat(model="auto"), await app.post("/api/route", {"text": "Hello"})):
        assert reply.status_code == 404
        assert "--router FILE" in reply.json()["error"]["hint"]
    reply = await app.post("/api/adapters", {"name": "auto", "path": "anywhere"})
    assert reply.status_code == 409


async def test_the_base_itself_can_make_the_vectors(tmp_path: Path, router: Path) -> None:
    """Of the fake engine a vector is how often each byte occurs; trained and asked through the engine, as any other."""
    router.write_text(
        "policy: embeddings\nmodel: base\nthreshold: 0.5\nroutes:\n"
        "  medical: {examples: [zzz, zz zz, zzzz z]}\n  base: {examples: [qqq, q qq, qqqq]}\n"
    )
    async with running(tmp_path, router=router) as app:
        await app.add("medical")
        for text, adapter, why in (("zz", "medical", "matched"), ("qq", "base", "general")):
            told = (await app.post("/api/route", {"text": text})).json()
            assert (told["adapter"], told["why"], told["policy"]) == (adapter, why, "embeddings")
        assert app.deck.idle()
        metrics = (await app.client.get("/metrics")).text
        assert 'loradex_route_seconds_count{policy="embeddings"} 2.0' in metrics
        assert 'loradex_requests_total{adapter="base"' not in metrics  # vectors are nobody's requests
