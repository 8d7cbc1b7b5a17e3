"""`POST /api/compare`: sides of all kinds in one batch, whole and streaming, and the failure of one."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from loradex.service.agreement import agreement, difference

from .conftest import App, Making
from .test_route import ROUTER


async def compare(app: App, sides: list[str], **body: Any) -> dict[str, Any]:
    reply = await app.post("/api/compare", {"prompt": "Which symptoms?", "sides": sides, **body})
    assert reply.status_code == 200, reply.text
    found: dict[str, Any] = reply.json()
    return found


async def test_versions_mixes_auto_and_base_answer_side_by_side(making: Making, tmp_path_factory: Any) -> None:
    router = tmp_path_factory.mktemp("router") / "router.yaml"
    router.write_text(ROUTER)
    app = await making(router=router)
    await app.add("medical")
    await app.add("medical", seed=1)
    await app.add("legal", seed=2)
    asked = ["medical@1", "medical", "medical*0.7+legal*0.3", "base", "auto"]
    found = await compare(app, asked)
    sides = found["sides"]
    assert [side["side"] for side in sides] == asked
    mix = "medical@2*0.7+legal@1*0.3"
    assert [side["adapter"] for side in sides] == ["medical@1", "medical@2", mix, "base", "medical@2"]
    assert len({side["text"] for side in sides[:4]}) == 4
    assert sides[4]["route"]["adapter"] == "medical"
    assert sides[4]["route"]["why"] == "matched"
    assert "Speak as a nurse" in sides[4]["text"]
    assert found["together"]
    for side in sides:
        assert side["error"] is None
        assert side["completion_tokens"] == len(side["tokens"]) > 1
        assert 0 < side["ttft_seconds"] <= side["seconds"]
        assert side["tokens_per_second"] > 0
        assert side["mean_logprob"] == pytest.approx(-0.1)
    assert "".join(token["text"] for token in sides[3]["tokens"]).startswith("base: user: Which symptoms?")
    assert app.deck.idle()


async def test_all_sides_are_in_the_engine_before_any_has_answered(app: App) -> None:
    await app.add("medical")
    seen: list[int] = []
    step = app.deck.engine.stats

    events = app.deck.service.compare(_ask(), ["medical", "base", "medical@1"]).events()
    async for _, event in events:
        if getattr(event, "text", ""):
            seen.append(step().running)
            if len(seen) == 3:
                break
    await events.aclose()
    assert seen == [3, 3, 3]
    assert app.deck.idle()


async def test_a_side_that_fails_does_not_fail_the_others(app: App) -> None:
    await app.add("medical")
    await app.add("legal", seed=1)
    app.deck.engine.fail_answer.add(app.deck.service.registry.resolve("legal").digest)
    found = await compare(app, ["nobody", "legal", "medical", "a*b", "auto"])
    nobody, legal, medical, malformed, auto = found["sides"]
    assert nobody["error"]["code"] == auto["error"]["code"] == "model_not_found"
    assert legal["error"]["code"] == "engine_failed"
    assert malformed["error"]["code"] in ("invalid_request", "model_not_found")
    assert all(side["error"]["hint"] for side in (nobody, legal, malformed, auto))
    assert medical["error"] is None
    assert medical["text"]
    assert (found["first"], found["agreement"]) == ("medical", None)
    assert app.deck.idle()


async def test_a_stream_tells_who_begins_pieces_ends_and_the_whole(app: App) -> None:
    await app.add("medical")
    reply = await app.post("/api/compare", {"prompt": "hello", "sides": ["medical", "base"], "stream": True})
    assert reply.headers["content-type"].startswith("text/event-stream")
    lines = [line[6:] for line in reply.text.splitlines() if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    events = [json.loads(line) for line in lines[:-1]]
    begun = {each["index"]: each["adapter"] for each in events if each["type"] == "begin"}
    assert begun == {0: "medical@1", 1: "base"}
    texts = {0: "", 1: ""}
    for each in events:
        if each["type"] == "text":
            texts[each["index"]] += each["text"]
            assert len(each["tokens"]) == 1
    assert events[-1]["type"] == "compared"
    assert [side["text"] for side in events[-1]["sides"]] == list(texts.values())
    assert {each["index"] for each in events if each["type"] == "end"} == {0, 1}


async def test_a_reference_is_scored_by_every_side(app: App) -> None:
    await app.add("medical")
    found = await compare(app, ["medical", "base"], reference="bases")
    for side in found["sides"]:
        assert "".join(token["text"] for token in side["reference"]["tokens"]) == "bases"
        mean = side["reference"]["mean_logprob"]
        assert mean == pytest.approx(sum(token["logprob"] for token in side["reference"]["tokens"]) / 5)
        assert side["reference"]["perplexity"] == pytest.approx(math.exp(-mean))
    # The fake engine finds likely what is in the name of its weights.
    medical, base = found["sides"]
    assert medical["reference"]["perplexity"] != base["reference"]["perplexity"]
    assert (await compare(app, ["base"]))["sides"][0]["reference"] is None


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"sides": ["base"]}, "either"),
        ({"prompt": "a", "messages": [{"role": "user", "content": "b"}], "sides": ["base"]}, "either"),
        ({"prompt": "a", "sides": []}, "sides"),
        ({"prompt": "a", "sides": ["base"] * 17}, "sides"),
        ({"prompt": "a", "sides": ["base"], "model": "medical"}, "no meaning"),
        ({"prompt": "a", "sides": ["base"], "n": 2}, "no meaning"),
    ],
)
async def test_what_is_no_comparison_is_refused(app: App, body: dict[str, Any], said: str) -> None:
    reply = await app.post("/api/compare", body)
    assert reply.status_code == 400
    assert said in reply.json()["error"]["message"]


def test_agreement_counts_words_in_order() -> None:
    assert agreement("a b c", "a b c") == 1
    assert agreement("a b c d", "a x c d") == 0.75
    assert agreement("a", "b") == 0
    assert agreement("", "") == 1


def test_a_difference_reads_as_either_answer() -> None:
    one, other = "Rest and drink water.\nThen sleep.", "Rest, and drink much water.\nThen sleep."
    parts = difference(one, other)
    assert "".join(text for kind, text in parts if kind != "missing") == other
    assert "".join(text for kind, text in parts if kind == "missing").strip() == "Rest"
    assert "".join(text for kind, text in parts if kind == "added").split() == ["Rest,", "much"]


def _ask() -> Any:
    from loradex.core.sampling import Sampling
    from loradex.service.ask import Ask

    return Ask(None, "a long prompt that takes some steps", Sampling(max_tokens=40, ignore_eos=True, logprobs=0))
