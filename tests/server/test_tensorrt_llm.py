"""TensorRT-LLM's `extra_body.lora_request`."""

from __future__ import annotations

import shutil

import pytest

from .conftest import App, Making
from .serving import save_adapter

ADAPTER = "x-loradex-adapter"


def asked(name: str, path: object = "", **more: object) -> dict[str, object]:
    return {"lora_request": {"lora_name": name, "lora_int_id": 0, "lora_path": str(path), **more}}


async def test_a_path_under_an_allowed_folder_is_registered_once_and_answers(app: App) -> None:
    folder = save_adapter(app.deck.folder / "sql")
    model = app.deck.service.info.path
    for _ in range(2):
        reply = await app.complete(model=model, **asked("sql", folder, lora_ckpt_source="hf"))
        assert (reply.status_code, reply.headers[ADAPTER], reply.json()["model"]) == (200, "sql@1", "sql@1")
    assert "x-loradex-ignored" not in reply.headers
    chat = await app.chat(model=model, **asked("sql"))
    assert chat.headers[ADAPTER] == "sql@1"


async def test_the_same_name_with_a_new_path_or_new_files_is_a_new_version(app: App) -> None:
    one, two = (save_adapter(app.deck.folder / f"sql{seed}", seed=seed) for seed in (1, 2))
    answered = [(await app.complete(**asked("sql", path))).headers[ADAPTER] for path in (one, two, one)]
    assert answered == ["sql@1", "sql@2", "sql@1"]
    shutil.rmtree(one)
    save_adapter(one, seed=3)
    assert (await app.complete(**asked("sql", one))).headers[ADAPTER] == "sql@3"
    assert (await app.complete(model="sql")).headers[ADAPTER] == "sql@3"


@pytest.mark.parametrize(
    ("body", "status", "code", "says", "hint"),
    [
        (asked("x", "/etc"), 403, "path_not_allowed", "'/etc'", "--allow-dir"),
        (asked("x", "{folder}/none"), 404, "adapter_files_not_found", "none", ""),
        (asked("x"), 404, "model_not_found", "`x` does not exist", ""),
        (asked("a/b", "{folder}"), 400, "invalid_request", "'a/b' is not valid", "letters"),
        (asked("x", "p", lora_ckpt_source="gguf"), 400, "invalid_request", "'hf' or 'nemo'", ""),
        (asked("x", "p", lora_rank=3), 400, "invalid_request", "lora_rank", ""),
        ({"lora_request": {"lora_int_id": -1}}, 400, "invalid_request", "lora_name", ""),
        (asked("x") | {"model": "sql"}, 400, "invalid_request", "Both `model` and", "base"),
        (asked("x") | {"adapter_id": "y"}, 400, "invalid_request", "Both `lora_request` and `adapter_id`", "one field"),
        (asked("x") | {"model": "auto"}, 400, "invalid_request", "`auto` chooses", "base"),
    ],
)
async def test_what_cannot_be_is_refused_with_the_fix(
    app: App, body: dict[str, object], status: int, code: str, says: str, hint: str
) -> None:
    if isinstance(body["lora_request"], dict) and "{folder}" in str(body["lora_request"].get("lora_path")):
        path = str(body["lora_request"]["lora_path"]).format(folder=app.deck.folder)
        body = body | {"lora_request": body["lora_request"] | {"lora_path": path}}
    reply = await app.complete(**body)
    error = reply.json()["error"]
    assert (reply.status_code, error["code"]) == (status, code), error
    assert says in error["message"]
    assert hint in error["hint"]


async def test_a_key_that_may_only_ask_gets_what_was_loaded_from_there_and_loads_nothing(making: Making) -> None:
    app = await making(infer_keys=("use",), admin_keys=("rule",))
    folder = save_adapter(app.deck.folder / "sql")
    reply = await app.post("/v1/completions", {"prompt": "a", **asked("sql", folder)}, authorization="Bearer use")
    assert (reply.status_code, reply.json()["error"]["code"]) == (403, "insufficient_scope")
    assert "loradex adapter add" in reply.json()["error"]["hint"]
    for key in ("rule", "use"):
        reply = await app.post(
            "/v1/completions", {"prompt": "a", **asked("sql", folder)}, authorization=f"Bearer {key}"
        )
        assert (reply.status_code, reply.headers[ADAPTER]) == (200, "sql@1")
    history = await app.client.get("/api/adapters/sql/history", headers={"authorization": "Bearer use"})
    assert history.json()["history"][0]["who"].startswith("key-")
