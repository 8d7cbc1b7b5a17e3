from __future__ import annotations

from .conftest import App


async def test_the_base_comes_first_then_every_adapter(app: App) -> None:
    await app.add("medical")
    await app.add("legal", seed=1)
    cards = (await app.client.get("/v1/models")).json()
    assert cards["object"] == "list"
    assert [card["id"] for card in cards["data"]] == ["tiny-base", "legal", "medical"]


async def test_cards_are_as_vllm_writes_them(app: App) -> None:
    await app.add("medical")
    base, adapter = (await app.client.get("/v1/models")).json()["data"]
    for card in (base, adapter):
        assert set(card) == {"id", "object", "created", "owned_by", "root", "parent", "max_model_len", "permission"}
        assert (card["object"], card["owned_by"]) == ("model", "loradex")
        permission = card["permission"][0]
        assert permission["id"].startswith("modelperm-")
        assert len(permission) == 12
    assert (base["root"], base["parent"], base["max_model_len"]) == ("models/tiny-base", None, 512)
    assert (adapter["parent"], adapter["max_model_len"]) == ("tiny-base", None)
    assert adapter["root"].endswith("medical-0-4")


async def test_one_model_is_found_by_any_name_that_would_answer(app: App) -> None:
    await app.add("medical")
    await app.add("medical", seed=1)
    for name in ("base", "tiny-base", "medical", "medical@1", "medical@2", "tiny-base:medical", "base:medical@1"):
        reply = await app.client.get(f"/v1/models/{name}")
        assert reply.status_code == 200, name
    assert (await app.client.get("/v1/models/medical@1")).json()["root"].endswith("medical-0-4")
    assert (await app.client.get("/v1/models/medical")).json()["root"].endswith("medical-1-4")


async def test_an_unknown_model_is_a_404(app: App) -> None:
    await app.add("medical")
    for name in ("medica", "medical@9", "medical@x", "a/b", "%20", "%ff", "medical@", "x" * 500):
        reply = await app.client.get(f"/v1/models/{name}")
        assert reply.status_code == 404, name
        assert reply.json()["error"]["code"] == "model_not_found"
    assert "medical" in (await app.client.get("/v1/models/medica")).json()["error"]["hint"]
