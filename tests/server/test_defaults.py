from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from .conftest import App, Making
from .serving import save_adapter

ONE = {"system": "Be one.", "sampling": {"max_tokens": 60, "temperature": 0.5}, "stop": ["STOP"]}


async def shown(app: App, name: str = "medical") -> list[Any]:
    return [each["defaults"] for each in (await app.client.get(f"/api/adapters/{name}")).json()["versions"]]


async def test_they_come_with_a_version_and_are_set_later(app: App) -> None:
    path = str(save_adapter(app.deck.folder / "a", seed=1))
    reply = await app.post("/api/adapters", {"name": "medical", "path": path, "defaults": ONE})
    assert reply.status_code == 200, reply.text
    assert await shown(app) == [ONE]
    chat = await app.chat("STO", model="medical", max_tokens=200)
    assert "system: Be one." in chat.json()["choices"][0]["message"]["content"]
    reply = await app.client.put("/api/adapters/medical/defaults", json={"system": "Be two."})
    assert reply.json()["versions"][0]["defaults"] == {"system": "Be two."}
    assert (await app.client.get("/api/adapters/medical/history")).json()["history"][0]["note"] == "system: Be two."
    assert (await app.client.put("/api/adapters/medical/defaults?version=7", json={})).status_code == 404
    assert (await app.client.put("/api/adapters/medical/defaults?version=1", json={})).status_code == 200
    assert await shown(app) == [{}]


async def test_what_a_request_gives_wins(app: App) -> None:
    await app.add("medical")
    await app.client.put("/api/adapters/medical/defaults", json=ONE | {"sampling": {"max_tokens": 30}})
    for body, tokens in (({}, 30), ({"max_tokens": 7}, 7), ({"max_tokens": None}, 30)):
        reply = await app.complete(prompt="x" * 99, model="medical", **body)
        assert reply.json()["usage"]["completion_tokens"] == tokens
    reply = await app.chat("x" * 99, model="medical", max_completion_tokens=9)
    assert reply.json()["usage"]["completion_tokens"] == 9
    assert (await app.complete(prompt="a STOP b", model="medical")).json()["choices"][0]["stop_reason"] == "STOP"
    reply = await app.complete(prompt="a STOP b", model="medical", stop=["b"])
    assert reply.json()["choices"][0]["stop_reason"] == "b"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"systen": "x"}, "systen"),
        ({"sampling": {"temperature": "hot"}}, "temperature"),
        ({"sampling": {"temperature": 9}}, "temperature"),
        ({"sampling": {"logprobs": 3}}, "logprobs"),
        ({"stop": [1]}, "stop"),
        ({"stop": [""]}, "stop"),
        ({"chat_template": "{{ x }}"}, "template"),  # the fake engine renders none
    ],
)
async def test_bad_ones_are_refused_and_change_nothing(app: App, body: dict[str, Any], said: str) -> None:
    await app.add("medical")
    reply = await app.client.put("/api/adapters/medical/defaults", json=body)
    assert reply.status_code == 400
    assert said in reply.text
    path = str(save_adapter(app.deck.folder / "b", seed=5))
    reply = await app.post("/api/adapters", {"name": "medical", "path": path, "defaults": body})
    assert reply.status_code == 400
    assert await shown(app) == [{}]


async def test_an_upload_brings_them_too(app: App, tmp_path: Path) -> None:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as packed:
        packed.add(save_adapter(tmp_path / "up"), "up")
    url = "/api/adapters/medical/files"
    reply = await app.client.put(url, params={"defaults": json.dumps(ONE)}, content=archive.getvalue())
    assert reply.status_code == 200, reply.text
    assert await shown(app) == [ONE]
    for bad in ("{", '{"system": 1}'):
        reply = await app.client.put(url, params={"defaults": bad}, content=archive.getvalue())
        assert (reply.status_code, "defaults" in reply.text) == (400, True)


async def test_only_admins_set_them(making: Making) -> None:
    app = await making(infer_keys=("use",), admin_keys=("rule",))
    reply = await app.client.put("/api/adapters/medical/defaults", json=ONE, headers={"authorization": "Bearer use"})
    assert reply.status_code == 403
