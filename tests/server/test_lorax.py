"""LoRAX's bodies."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from .conftest import App, Making
from .serving import save_adapter

ADAPTER = "x-loradex-adapter"
TWO_FORMS = {"response_format": {"type": "json_object"}, "grammar": {"type": "regex", "value": "a"}}


async def generate(app: App, path: str = "/generate", **parameters: Any) -> httpx.Response:
    return await app.post(path, {"inputs": "hello", "parameters": {"max_new_tokens": 4, **parameters}})


def events(reply: httpx.Response) -> list[dict[str, Any]]:
    lines = [line for line in reply.text.splitlines() if line]
    assert all(line.startswith("data:") for line in lines)
    return [json.loads(line.removeprefix("data:")) for line in lines]


async def test_an_answer_says_who_spoke_and_what_it_took(app: App) -> None:
    await app.add("sql")
    reply = await generate(app, adapter_id="sql", details=True, seed=7)
    body = reply.json()
    assert reply.status_code == 200
    expected = (await app.complete(model="sql", max_tokens=4, temperature=0)).json()["choices"][0]["text"]
    assert body["generated_text"] == expected
    details = body["details"]
    assert (details["finish_reason"], details["generated_tokens"], details["seed"]) == ("length", 4, 7)
    assert "".join(token["text"] for token in details["tokens"]) == expected
    assert sorted(details["tokens"][0]) == ["id", "logprob", "special", "text"]
    for name in ("compute-type", "compute-time", "total-time", "queue-time", "inference-time", "time-per-token"):
        assert f"x-{name}" in reply.headers
    said = {name: reply.headers[f"x-{name}"] for name in ("generated-tokens", "model-id", "adapter-id")}
    assert said == {"generated-tokens": "4", "model-id": "tiny-base", "adapter-id": "sql"}
    assert reply.headers[ADAPTER] == "sql@1"


async def test_the_root_answers_a_list_and_a_base_without_an_adapter(app: App) -> None:
    reply = await generate(app, "/", return_full_text=True)
    [answer] = reply.json()
    assert answer["generated_text"].startswith("hello")
    assert sorted(answer) == ["generated_text"]
    assert "x-adapter-id" not in reply.headers
    assert (await app.post("/generate", {"inputs": "hello"})).status_code == 200


async def test_a_stream_is_tokens_and_the_last_one_has_the_whole_text(app: App) -> None:
    whole = (await generate(app)).json()["generated_text"]
    reply = await generate(app, "/generate_stream", details=True)
    *others, last = events(reply)
    assert [each["generated_text"] for each in others] == [None] * 3
    assert (last["generated_text"], last["details"]["generated_tokens"]) == (whole, 4)
    assert "".join(each["token"]["text"] for each in [*others, last]) == whole
    streamed = await app.post("/", {"inputs": "hello", "parameters": {"max_new_tokens": 4}, "stream": True})
    assert events(streamed)[-1]["generated_text"] == whole


async def test_merged_adapters_are_an_exact_mix_at_run_time(app: App) -> None:
    await app.add("sql")
    await app.add("code", seed=1)
    merged = {"ids": ["sql", "code"], "weights": [0.5, 0.25], "merge_strategy": "linear", "density": 0.0}
    reply = await generate(app, merged_adapters=merged)
    assert reply.headers[ADAPTER] == "sql@1*0.5+code@1*0.25"
    assert reply.headers["x-adapter-id"] == "sql,code"
    same = await app.complete(model="sql*0.5+code*0.25", max_tokens=4, temperature=0)
    assert reply.json()["generated_text"] == same.json()["choices"][0]["text"]
    assert (await app.complete(merged_adapters={"ids": ["sql"]})).headers[ADAPTER] == "sql@1"
    for name in ("ties", "dare_linear", "dare_ties"):
        refused = await generate(app, merged_adapters=merged | {"merge_strategy": name})
        assert (refused.status_code, refused.json()["error_type"]) == (422, "validation")
        assert f"--method {name}" in refused.json()["error"]
    short = await generate(app, merged_adapters=merged | {"weights": [1.0]})
    assert "2 ids and 1 weights" in short.json()["error"]


async def test_an_id_with_a_source_is_a_place_and_openai_bodies_take_it_too(app: App) -> None:
    folder = save_adapter(app.deck.folder / "sql")
    place = {"adapter_id": str(folder), "adapter_source": "local"}
    name = str(folder).strip("/").replace("/", "--")
    for _ in range(2):
        assert (await generate(app, **place)).headers[ADAPTER] == f"{name}@1"
    assert (await app.chat(**place)).headers[ADAPTER] == f"{name}@1"
    assert (await app.complete(adapter_id=name)).headers[ADAPTER] == f"{name}@1"
    assert (await app.complete(adapter_id="__base_model__")).headers[ADAPTER] == "base"


@pytest.mark.parametrize(
    ("parameters", "status", "kind", "says"),
    [
        ({"adapter_id": "none"}, 424, "generation", "`none` does not exist"),
        ({"adapter_id": "/etc", "adapter_source": "local"}, 403, "validation", "--allow-dir"),
        ({"adapter_id": "org/none"}, 403, "validation", "--allow-url"),
        ({"adapter_id": "x", "adapter_source": "pbase"}, 422, "validation", "hub, local, s3"),
        ({"adapter_source": "hub"}, 422, "validation", "needs adapter_id"),
        ({"adapter_id": "a", "merged_adapters": {"ids": ["b"]}}, 422, "validation", "exclude one another"),
        ({"typical_p": 0.5}, 422, "validation", "typical_p"),
        ({"best_of": 2}, 422, "validation", "best_of"),
        ({"grammar": {"type": "yaml", "value": ""}}, 422, "validation", "grammar"),
        (TWO_FORMS, 422, "validation", "exclude one another"),
        ({"max_new_tokens": 0}, 422, "validation", "max_new_tokens"),
        ({"max_new_tokens": 1 << 20}, 422, "validation", ""),
    ],
)
async def test_errors_have_their_shape(app: App, parameters: dict[str, Any], status: int, kind: str, says: str) -> None:
    reply = await generate(app, **parameters)
    body = reply.json()
    assert (reply.status_code, body["error_type"], sorted(body)) == (status, kind, ["error", "error_type"]), body
    assert says in body["error"]


async def test_a_place_that_nobody_loaded_needs_an_admin_key(making: Making) -> None:
    app = await making(infer_keys=("use",), admin_keys=("rule",))
    folder = save_adapter(app.deck.folder / "sql")
    body = {"inputs": "a", "parameters": {"adapter_id": str(folder), "adapter_source": "local"}}
    assert (await app.post("/generate", body, authorization="Bearer use")).status_code == 403
    assert (await app.post("/generate", body, authorization="Bearer rule")).status_code == 200
    assert (await app.post("/generate", body, authorization="Bearer use")).status_code == 200
