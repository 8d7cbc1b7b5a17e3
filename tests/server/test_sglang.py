"""SGLang's bodies."""

from __future__ import annotations

import pytest

from .conftest import App, Making
from .serving import save_adapter

LOAD, UNLOAD = "/load_lora_adapter", "/unload_lora_adapter"
ADAPTER = "x-loradex-adapter"


async def test_load_and_unload_say_what_is_loaded(app: App) -> None:
    folder = str(save_adapter(app.deck.folder / "sql"))
    body = {"lora_name": "sql", "lora_path": folder, "pinned": False, "lora_id": None}
    reply = await app.post(LOAD, body)
    loaded = {"success": True, "error_message": None, "loaded_adapters": {"sql": folder}}
    assert (reply.status_code, reply.json()) == (200, loaded)
    again = await app.post(LOAD, body)
    assert (again.status_code, again.json()["success"], again.json()["loaded_adapters"]) == (400, False, None)
    assert again.json()["error_message"].startswith("Failed to load LoRA adapter sql because it is already loaded")
    reply = await app.post(UNLOAD, {"lora_name": "sql"})
    assert (reply.status_code, reply.json()) == (200, loaded | {"loaded_adapters": {}})
    missing = await app.post(UNLOAD, {"lora_name": "sql"})
    assert missing.status_code == 400
    assert missing.json()["error_message"].startswith("LoRA with name sql does not exist. Loaded LoRAs: ")


async def test_pinned_adapters_stay(app: App) -> None:
    folder = str(save_adapter(app.deck.folder / "sql"))
    assert (await app.post(LOAD, {"lora_name": "sql", "lora_path": folder, "pinned": True})).status_code == 200
    refused = await app.post(UNLOAD, {"lora_name": "sql"})
    assert (refused.status_code, refused.json()["success"]) == (400, False)
    assert "pinned" in refused.json()["error_message"]


@pytest.mark.parametrize("body", [{"lora_name": "x", "lora_path": "/etc"}, {"lora_name": "x"}, {"lora_name": 5}])
async def test_every_failure_has_their_shape(app: App, body: dict[str, object]) -> None:
    reply = await app.post(LOAD, body)
    assert reply.status_code in (400, 403)
    assert sorted(reply.json()) == ["error_message", "loaded_adapters", "success"]


async def test_models_are_named_by_base_and_adapter_and_the_full_name_wins(app: App) -> None:
    await app.add("sql")
    base = app.deck.service.info.id
    for model in (f"{base}:sql", "base:sql", "sql", f"{base}:sql:1", f"{app.deck.service.info.path}:sql"):
        reply = await app.complete(model=model)
        assert (reply.status_code, reply.headers[ADAPTER]) == (200, "sql@1"), model
    for model in ("other:sql", f"{base}:none", f"{base}:sql:none"):
        assert (await app.complete(model=model)).status_code == 404, model


async def test_lora_path_names_one_adapter_or_one_for_each_prompt(app: App) -> None:
    await app.add("sql")
    await app.add("code", seed=1)
    assert (await app.complete(lora_path="sql")).headers[ADAPTER] == "sql@1"
    assert (await app.chat(lora_path="code")).headers[ADAPTER] == "code@1"
    prompts = ["a", "a", "a", "b"]
    reply = await app.complete(prompt=prompts, lora_path=["sql", None, "code", "sql"], temperature=0)
    assert (reply.headers[ADAPTER], reply.json()["model"]) == ("sql@1, base, code@1", "sql, tiny-base, code")
    alone = [(await app.complete(prompt="a", model=model, temperature=0)).json() for model in ("sql", "base", "code")]
    assert [each["text"] for each in reply.json()["choices"][:3]] == [each["choices"][0]["text"] for each in alone]
    for wrong in (["sql"], ["sql"] * 5, "/adapters/sql"):
        refused = await app.complete(prompt=prompts, lora_path=wrong)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "lora_path")


async def test_adapters_are_changed_by_admin_keys_alone(making: Making) -> None:
    app = await making(infer_keys=("use",), admin_keys=("rule",))
    for path in (LOAD, UNLOAD):
        assert (await app.post(path, {"lora_name": "x", "lora_path": "y"})).status_code == 401
        reply = await app.post(path, {"lora_name": "x", "lora_path": "y"}, authorization="Bearer use")
        assert (reply.status_code, reply.json()["success"]) == (403, False)
