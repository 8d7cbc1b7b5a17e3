from __future__ import annotations

import pytest

from .conftest import App, Making


async def test_probes(app: App) -> None:
    assert (await app.client.get("/health")).json() == {"status": "ok"}
    reply = await app.client.get("/ready")
    assert (reply.status_code, reply.json()) == (200, {"ready": True})
    await app.deck.service.stop()
    assert (await app.client.get("/health")).status_code == 200
    reply = await app.client.get("/ready")
    assert (reply.status_code, reply.json()) == (503, {"ready": False})


async def test_a_server_that_is_not_ready_says_so(app: App) -> None:
    await app.deck.service.stop()
    for method, path in (("GET", "/v1/models"), ("GET", "/metrics"), ("GET", "/api/info"), ("GET", "/api/adapters")):
        reply = await app.client.request(method, path)
        assert (reply.status_code, reply.json()["error"]["code"]) == (503, "engine_stopped")
    assert (await app.complete()).status_code == 503


@pytest.mark.asyncio(loop_scope="module")
async def test_info_tells_what_this_is(shared: App) -> None:
    info = (await shared.client.get("/api/info")).json()
    assert info["product"] == "loradex"
    assert info["model"]["id"] == "tiny-base"
    assert info["model"]["max_model_len"] == info["limits"]["max_model_len"] == 512
    assert info["limits"]["max_loras"] == 4
    assert info["stats"]["running"] == 0


async def test_metrics_are_prometheus_text(app: App) -> None:
    await app.add("medical")
    await app.complete(model="medical")
    reply = await app.client.get("/metrics")
    assert reply.headers["content-type"].startswith("text/plain")
    assert 'loradex_requests_total{adapter="medical"' in reply.text
    assert "vllm:num_requests_running" in reply.text
    assert "vllm:lora_requests_info{" in reply.text


async def test_keys(making: Making) -> None:
    app = await making(infer_keys=("use",), admin_keys=("rule",))
    for path in ("/health", "/ready", "/openapi.json"):
        assert (await app.client.get(path)).status_code == 200
    for path in ("/metrics", "/v1/models", "/api/info", "/api/adapters", "/nowhere"):
        reply = await app.client.get(path)
        assert reply.status_code == 401, path
        assert reply.json()["error"]["type"] == "authentication_error"
        assert reply.headers["www-authenticate"] == "Bearer"
        assert (await app.client.get(path, headers={"authorization": "Bearer wrong"})).status_code == 401
    for path in ("/metrics", "/v1/models", "/api/info", "/api/adapters"):
        for key in ("use", "rule"):
            assert (await app.client.get(path, headers={"authorization": f"Bearer {key}"})).status_code == 200


async def test_a_key_may_hold_any_character(making: Making) -> None:
    app = await making(infer_keys=("schlüssel",))
    for header, status in (("Bearer schlüssel".encode(), 200), ("Bearer schlüssel".encode("latin-1"), 401)):
        assert (await app.client.get("/v1/models", headers={b"authorization": header})).status_code == status


async def test_a_key_is_asked_for_before_the_body_is_read(making: Making) -> None:
    app = await making(infer_keys=("use",))
    reply = await app.client.post("/v1/completions", content=b"{broken", headers={"content-type": "application/json"})
    assert reply.status_code == 401


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/nowhere", 404), ("GET", "/v1/completions", 405)])
async def test_unknown_routes_and_wrong_methods_have_a_detail(shared: App, method: str, path: str, status: int) -> None:
    reply = await shared.client.request(method, path)
    assert reply.status_code == status
    assert set(reply.json()) == {"detail"}
    assert reply.headers["x-request-id"]


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    ("content", "kind", "said"),
    [
        (b"{broken", "application/json", "not valid JSON"),
        (b'{"prompt": "a", "temperature": NaN}', "application/json", "NaN"),
        (b'{"prompt": "\\ud800"}', "application/json", "surrogate"),
        (b"[" * 100_000, "application/json", "nested"),
        (b'{"prompt": "a"}', "text/plain", "Content-Type"),
        (b"prompt=a", "application/x-www-form-urlencoded", "Content-Type"),
        (b"", "application/json", "JSON object"),
        (b"[]", "application/json", "JSON object"),
        (b"null", "application/json", "JSON object"),
        (b'"hi"', "application/json", "JSON object"),
    ],
)
async def test_a_body_that_is_no_json_object_is_a_400(shared: App, content: bytes, kind: str, said: str) -> None:
    for path in ("/v1/completions", "/v1/chat/completions", "/api/adapters"):
        reply = await shared.client.post(path, content=content, headers={"content-type": kind})
        assert reply.status_code == 400
        assert said in reply.json()["error"]["message"]


@pytest.mark.asyncio(loop_scope="module")
async def test_a_body_that_is_too_large_is_a_413(shared: App) -> None:
    async def endless():  # type: ignore[no-untyped-def]
        for _ in range(40):
            yield b"x" * (1 << 20)

    reply = await shared.client.post("/v1/completions", content=endless(), headers={"content-type": "application/json"})
    assert (reply.status_code, reply.json()["error"]["code"]) == (413, "body_too_large")
    headers = {"content-type": "application/json", "content-length": str(1 << 30)}
    reply = await shared.client.post("/v1/completions", content=b"{}", headers=headers)
    assert reply.status_code == 413


@pytest.mark.asyncio(loop_scope="module")
async def test_the_openapi_is_complete(shared: App) -> None:
    spec = (await shared.client.get("/openapi.json")).json()
    for path, methods in spec["paths"].items():
        for method, operation in methods.items():
            assert operation["description"], (method, path)
            assert "422" not in operation["responses"], (method, path)
            if path not in ("/health", "/ready"):
                assert operation["security"], (method, path)
                told = set(operation["responses"])
                assert {"401", "500"} <= told or {"401", "5XX"} <= told, (method, path)


async def test_the_page_of_routes_loads_nothing_from_elsewhere(app: App) -> None:
    reply = await app.client.get("/docs")
    assert reply.headers["content-type"].startswith("text/html")
    for path in (
        "GET /v1/models",
        "POST /v1/chat/completions",
        "POST /api/adapters:check",
        "DELETE /api/jobs/{job_id}",
    ):
        assert path in reply.text
    assert "://" not in reply.text
    assert "<script" not in reply.text
