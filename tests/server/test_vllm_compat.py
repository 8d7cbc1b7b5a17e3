from __future__ import annotations

from typing import Any

import pytest

from .conftest import App, Making
from .serving import save_adapter

LOAD, UNLOAD = "/v1/load_lora_adapter", "/v1/unload_lora_adapter"


def error(status: int, kind: str, message: str, param: str | None = None) -> tuple[int, dict[str, Any]]:
    return status, {"error": {"message": message, "type": kind, "param": param, "code": status}}


async def names(app: App) -> list[str]:
    return [card["id"] for card in (await app.client.get("/v1/models")).json()["data"]]


async def test_load_and_unload_answer_plain_text_without_a_content_type(app: App) -> None:
    folder = save_adapter(app.deck.folder / "sql")
    reply = await app.post(LOAD, {"lora_name": "sql", "lora_path": str(folder)})
    assert (reply.status_code, reply.text) == (200, "Success: LoRA adapter 'sql' added successfully.")
    assert "content-type" not in reply.headers
    assert await names(app) == ["tiny-base", "sql"]
    reply = await app.post(UNLOAD, {"lora_name": "sql", "lora_int_id": 1})
    assert (reply.status_code, reply.text) == (200, "Success: LoRA adapter 'sql' removed successfully.")
    assert "content-type" not in reply.headers
    assert await names(app) == ["tiny-base"]
    assert (await app.complete(model="sql")).status_code == 404


async def test_an_unloaded_name_can_be_loaded_again(app: App) -> None:
    folder = str(save_adapter(app.deck.folder / "sql"))
    for _ in range(2):
        assert (await app.post(LOAD, {"lora_name": "sql", "lora_path": folder})).status_code == 200
        assert (await app.post(UNLOAD, {"lora_name": "sql"})).status_code == 200


async def test_a_second_load_needs_load_inplace(app: App) -> None:
    one, two = (str(save_adapter(app.deck.folder / f"sql{seed}", seed=seed)) for seed in (1, 2))
    await app.post(LOAD, {"lora_name": "sql", "lora_path": one})
    reply = await app.post(LOAD, {"lora_name": "sql", "lora_path": two})
    said = (
        "The lora adapter 'sql' has already been loaded. "
        "If you want to load the adapter in place, set 'load_inplace' to True."
    )
    assert (reply.status_code, reply.json()) == error(400, "InvalidUserInput", said)
    reply = await app.post(LOAD, {"lora_name": "sql", "lora_path": two, "load_inplace": True})
    assert reply.status_code == 200
    assert (await app.complete(model="sql")).headers["x-loradex-adapter"] == "sql@2"


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    ("path", "body", "expected"),
    [
        (
            LOAD,
            {"lora_name": "", "lora_path": "x"},
            error(400, "InvalidUserInput", "Both 'lora_name' and 'lora_path' must be provided."),
        ),
        (
            LOAD,
            {"lora_name": "x", "lora_path": ""},
            error(400, "InvalidUserInput", "Both 'lora_name' and 'lora_path' must be provided."),
        ),
        (
            LOAD,
            {"lora_name": "tiny-base", "lora_path": "x"},
            error(400, "InvalidUserInput", "The lora adapter 'tiny-base' conflicts with a served base model."),
        ),
        (
            LOAD,
            {"lora_name": "sql"},
            error(400, "Bad Request", "1 validation error(s): body.lora_path: field required", "body.lora_path"),
        ),
        (
            LOAD,
            {"lora_name": 5, "lora_path": 5},
            error(
                400,
                "Bad Request",
                "2 validation error(s): body.lora_name: input should be a valid string, not 5; "
                "body.lora_path: input should be a valid string, not 5",
                "body.lora_name",
            ),
        ),
        (
            LOAD,
            {"lora_name": "sql", "lora_path": "x", "is_3d_lora_weight": True},
            error(400, "BadRequestError", "`is_3d_lora_weight` is not offered by this server", "is_3d_lora_weight"),
        ),
        (
            UNLOAD,
            {"lora_name": ""},
            error(400, "InvalidUserInput", "'lora_name' needs to be provided to unload a LoRA adapter."),
        ),
        (UNLOAD, {"lora_name": "x"}, error(404, "NotFoundError", "The lora adapter 'x' cannot be found.")),
        (UNLOAD, {"lora_name": "a/b"}, error(404, "NotFoundError", "The lora adapter 'a/b' cannot be found.")),
        (UNLOAD, {"lora_name": "x@1"}, error(404, "NotFoundError", "The lora adapter 'x@1' cannot be found.")),
    ],
)
async def test_refusals_are_in_vllms_words(
    shared: App, path: str, body: dict[str, Any], expected: tuple[int, dict[str, Any]]
) -> None:
    reply = await shared.post(path, body)
    assert (reply.status_code, reply.json()) == expected


@pytest.mark.asyncio(loop_scope="module")
async def test_broken_json_and_other_content_types(shared: App) -> None:
    reply = await shared.client.post(
        LOAD, content=b'{"lora_name": "sql" x}', headers={"content-type": "application/json"}
    )
    assert (reply.status_code, reply.json()["error"]["type"]) == (400, "Bad Request")
    assert reply.json()["error"]["param"] == "body.20"
    reply = await shared.client.post(
        LOAD, content=b"a=1", headers={"content-type": "application/x-www-form-urlencoded"}
    )
    assert (reply.status_code, reply.json()["error"]["type"]) == (400, "Bad Request")


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("kind", ["missing", "empty"])
async def test_a_folder_without_an_adapter_is_not_found(shared: App, kind: str) -> None:
    folder = shared.deck.folder / kind
    if kind == "empty":
        folder.mkdir()
    reply = await shared.post(LOAD, {"lora_name": "sql", "lora_path": str(folder)})
    said = f"Loading lora sql failed: No adapter found for {folder}"
    assert (reply.status_code, reply.json()) == error(404, "NotFoundError", said)


async def test_the_whole_report_is_told_with_vllms_sentence_in_it(app: App) -> None:
    folder = save_adapter(app.deck.folder / "big", rank=32, broken=True)
    reply = await app.post(LOAD, {"lora_name": "sql", "lora_path": str(folder)})
    body = reply.json()["error"]
    assert (reply.status_code, body["type"], body["param"]) == (400, "BadRequestError", None)
    assert "LoRA rank 32 is greater than max_lora_rank 16." in body["message"]
    assert "NaN" in body["message"]
    assert await names(app) == ["tiny-base"]


@pytest.mark.asyncio(loop_scope="module")
async def test_a_path_outside_the_allowed_folders_is_refused_with_the_fix(shared: App) -> None:
    reply = await shared.post(LOAD, {"lora_name": "sql", "lora_path": "/etc"})
    body = reply.json()["error"]
    assert (reply.status_code, body["code"]) == (403, 403)
    assert "--allow-dir" in body["message"]


async def test_a_bad_name_is_refused(app: App) -> None:
    folder = save_adapter(app.deck.folder / "sql")
    for name in ("a/b", "a,b", "a b", "-a", "a@1", "x" * 200):
        reply = await app.post(LOAD, {"lora_name": name, "lora_path": str(folder)})
        assert (reply.status_code, reply.json()["error"]["type"]) == (400, "InvalidUserInput")


async def test_keys_are_asked_for_in_vllms_words(making: Making) -> None:
    app = await making(infer_keys=("use",), admin_keys=("rule",))
    reply = await app.post(LOAD, {})
    assert (reply.status_code, reply.json()) == (401, {"error": "Unauthorized"})
    reply = await app.post(LOAD, {}, authorization="Bearer use")
    assert (reply.status_code, reply.json()["error"]["code"]) == (403, 403)
    reply = await app.post(LOAD, {}, authorization="Bearer rule")
    assert reply.status_code == 400
