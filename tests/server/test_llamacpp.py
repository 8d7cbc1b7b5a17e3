"""llama.cpp's bodies."""

from __future__ import annotations

import json
from typing import Any

import pytest

from .conftest import App, Making

ADAPTER = "x-loradex-adapter"
LORA = "/lora-adapters"


async def test_adapters_have_numbers_that_stay_and_scales_that_hold_on_completion(app: App) -> None:
    await app.add("sql")
    await app.add("code", seed=1)
    listed = (await app.client.get(LORA)).json()
    assert [(each["id"], each["name"], each["scale"]) for each in listed] == [(0, "code", 0.0), (1, "sql", 0.0)]
    assert sorted(listed[0]) == ["id", "name", "path", "prompt_prefix", "scale", "task_name"]
    await app.add("before-all")
    assert [each["name"] for each in (await app.client.get(LORA)).json()] == ["code", "sql", "before-all"]
    assert (await app.post("/completion", {"prompt": "a", "n_predict": 2})).headers[ADAPTER] == "base"
    reply = await app.post(LORA, [{"id": 1, "scale": 0.5}, {"id": 0}])
    assert (reply.status_code, reply.json()) == (200, {"success": True})
    assert [each["scale"] for each in (await app.client.get(LORA)).json()] == [1.0, 0.5, 0.0]
    assert (await app.post("/completion", {"prompt": "a", "n_predict": 2})).headers[ADAPTER] == "code@1+sql@1*0.5"
    assert (await app.complete()).headers[ADAPTER] == "base"  # elsewhere the request says who answers
    assert (await app.post("/completion", {"prompt": "a", "model": "sql", "n_predict": 2})).headers[ADAPTER] == "sql@1"


async def test_a_request_brings_its_own_scales_and_who_is_not_listed_has_none(app: App) -> None:
    await app.add("sql")
    await app.add("code", seed=1)
    await app.post(LORA, [{"id": 0, "scale": 1.0}])
    for lora, answered in (([{"id": 1, "scale": 0.5}], "sql@1*0.5"), ([], "base"), ([{"id": 0, "scale": 0}], "base")):
        reply = await app.post("/completion", {"prompt": "a", "n_predict": 2, "lora": lora})
        assert reply.headers[ADAPTER] == answered
        assert (await app.chat(lora=lora)).headers[ADAPTER] == answered


async def test_a_completion_has_their_fields_at_once_and_as_a_stream(app: App) -> None:
    body = {"prompt": "hello", "n_predict": 3, "temperature": 0, "seed": -1, "cache_prompt": True}
    reply = await app.post("/completion", body)
    whole = reply.json()
    expected = (await app.complete(max_tokens=3, temperature=0)).json()["choices"][0]["text"]
    assert (whole["content"], whole["stop"], whole["stop_type"]) == (expected, True, "limit")
    assert (whole["tokens_predicted"], whole["model"], whole["timings"]["predicted_n"]) == (3, "tiny-base", 3)
    assert reply.headers["x-loradex-ignored"] == "cache_prompt"
    stream = await app.post("/completion", body | {"stream": True})
    chunks = [json.loads(line.removeprefix("data: ")) for line in stream.text.splitlines() if line]
    assert [chunk["stop"] for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert "".join(chunk["content"] for chunk in chunks) == expected
    assert sum(len(chunk["tokens"]) for chunk in chunks) == 3
    end = (await app.post("/completion", body | {"stop": [expected[1]]})).json()
    assert (end["stop_type"], end["stopping_word"]) == ("word", expected[1])


@pytest.mark.parametrize(
    ("path", "body", "says"),
    [
        (LORA, {"id": 0}, "Request body must be an array"),
        (LORA, [{"id": 9}], "the id 9"),
        (LORA, [{"id": 0, "scael": 1}], "scael"),
        ("/completion", {"prompt": "a", "lora": [{"id": 9, "scale": 1}]}, "GET /lora-adapters"),
        ("/completion", {"prompt": "a", "n_probs": 5}, "`n_probs` is not offered"),
        ("/completion", {"prompt": "a", "grammar": "root", "json_schema": {}}, "exclude one another"),
        ("/completion", {"prompt": "a", "json_schema": 5}, "no JSON schema"),
        ("/completion", {"prompt": {}}, "prompt"),
    ],
)
async def test_errors_have_their_shape(app: App, path: str, body: Any, says: str) -> None:
    reply = await app.post(path, body)
    error = reply.json()["error"]
    assert (reply.status_code, error["code"], error["type"]) == (400, 400, "invalid_request_error")
    assert says in error["message"]


async def test_scales_are_set_by_admin_keys_alone(making: Making) -> None:
    app = await making(infer_keys=("use",), admin_keys=("rule",))
    assert (await app.post(LORA, [], authorization="Bearer use")).status_code == 403
    assert (await app.post(LORA, [], authorization="Bearer rule")).status_code == 200
    assert (await app.client.get(LORA, headers={"authorization": "Bearer use"})).json() == []
