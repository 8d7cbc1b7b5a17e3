from __future__ import annotations

from typing import Any

import pytest

from .conftest import App, Making
from .serving import save_adapter


async def test_an_adapter_is_added_shown_and_listed(app: App) -> None:
    change = (await app.add("medical")).json()
    assert change["version"] == 1
    assert change["previous"] is None
    view = (await app.client.get("/api/adapters/medical")).json()
    assert view["versions"][0].pop("config")["r"] == 4
    assert view["versions"][0].pop("defaults") == {}
    assert (await app.client.get("/api/adapters")).json() == {"adapters": [view], "invalid": []}
    assert (view["name"], view["enabled"], view["current"], view["aliases"]) == ("medical", True, 1, {})
    version = view["versions"][0]
    assert (version["digest"], version["rank"], version["modules"]) == (change["digest"], 4, ["q_proj", "v_proj"])
    assert (version["resident"], version["leases"], version["running"], version["waiting"]) == (True, 0, 0, 0)
    assert version["base_name"] == "tiny-base"


async def test_a_replace_tells_what_was_before(app: App) -> None:
    first = (await app.add("medical")).json()
    second = (await app.add("medical", seed=1)).json()
    assert second["version"] == 2
    assert second["previous"] == {"version": 1, "digest": first["digest"]}
    assert all(second[key] >= 0 for key in ("stage_seconds", "load_seconds", "switch_seconds", "moved"))


async def test_a_name_that_is_taken_is_a_409_when_replace_is_off(app: App) -> None:
    await app.add("medical")
    folder = save_adapter(app.deck.folder / "other", seed=3)
    reply = await app.post("/api/adapters", {"name": "medical", "path": str(folder), "replace": False})
    assert (reply.status_code, reply.json()["error"]["code"]) == (409, "conflict")


async def test_a_check_lists_every_problem_and_registers_nothing(app: App) -> None:
    good = save_adapter(app.deck.folder / "good")
    report = (await app.post("/api/adapters:check", {"path": str(good)})).json()
    assert (report["ok"], report["rank"], report["problems"], report["format"]) == (True, 4, [], "peft")
    shape = {"count": 2, "in_features": 32, "out_features": 32, "ranks": [4], "scalings": [2.0]}
    assert report["kinds"][0] == {"name": "q_proj", **shape}
    assert (report["device_bytes"], report["load_seconds"]) == (report["bytes"], None)
    bad = save_adapter(app.deck.folder / "bad", rank=32, broken=True, base="another")
    report = (await app.post("/api/adapters:check", {"path": str(bad)})).json()
    assert report["ok"] is False
    assert {"rank_too_large", "not_finite"} <= {problem["code"] for problem in report["problems"]}
    assert all(problem["fix"] for problem in report["problems"])
    assert "another" in report["warnings"][0]
    assert (await app.client.get("/api/adapters")).json() == {"adapters": [], "invalid": []}


async def test_a_refused_adapter_is_a_400_with_its_problems(app: App) -> None:
    bad = save_adapter(app.deck.folder / "bad", rank=32)
    reply = await app.post("/api/adapters", {"name": "bad", "path": str(bad)})
    error = reply.json()["error"]
    assert (reply.status_code, error["code"]) == (400, "adapter_invalid")
    assert error["problems"][0]["code"] == "rank_too_large"


async def test_promote_rollback_aliases_and_history(app: App) -> None:
    await app.add("medical")
    await app.add("medical", seed=1)
    reply = await app.client.put("/api/adapters/medical/aliases/default", json={"version": 1})
    assert (reply.status_code, reply.json()["version"]) == (200, 1)
    assert (await app.complete(model="medical")).headers["x-loradex-adapter"] == "medical@1"
    reply = await app.post("/api/adapters/medical/rollback")
    assert (reply.status_code, reply.json()["version"]) == (200, 2)
    reply = await app.post("/api/adapters/medical/rollback", {"mode": "immediate"})
    assert (reply.status_code, reply.json()["version"]) == (200, 1)
    reply = await app.client.put("/api/adapters/medical/aliases/prod", json={"version": 2, "mode": "drain"})
    assert (await app.complete(model="medical@prod")).headers["x-loradex-adapter"] == "medical@2"
    reply = await app.client.delete("/api/adapters/medical/aliases/prod")
    assert "prod" not in reply.json()["aliases"]
    history = (await app.client.get("/api/adapters/medical/history")).json()["history"]
    assert history[-1]["action"] == "add"
    assert history[0]["action"] == "remove_alias"
    assert {row["who"] for row in history} == {"http"}


async def test_versions_and_names_are_removed(app: App) -> None:
    await app.add("medical")
    await app.add("medical", seed=1)
    reply = await app.client.delete("/api/adapters/medical?version=1")
    assert (reply.status_code, reply.json()) == (200, {"name": "medical", "version": 1, "removed": True})
    reply = await app.client.delete("/api/adapters/medical")
    assert reply.json() == {"name": "medical", "version": None, "removed": True}
    assert (await app.client.get("/api/adapters/medical")).status_code == 404
    assert (await app.complete(model="medical")).status_code == 404


async def test_an_alias_holds_its_version(app: App) -> None:
    await app.add("medical")
    await app.add("medical", seed=1)
    await app.client.put("/api/adapters/medical/aliases/prod", json={"version": 1})
    reply = await app.client.delete("/api/adapters/medical?version=1")
    assert (reply.status_code, reply.json()["error"]["code"]) == (409, "conflict")


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("GET", "/api/adapters/none", None, 404, "adapter_not_found"),
        ("GET", "/api/adapters/none/history", None, 404, "adapter_not_found"),
        ("DELETE", "/api/adapters/none", None, 404, "adapter_not_found"),
        ("DELETE", "/api/adapters/none?version=0", None, 400, "invalid_request"),
        ("DELETE", "/api/adapters/none?version=x", None, 400, "invalid_request"),
        ("POST", "/api/adapters/none/rollback", None, 404, "adapter_not_found"),
        ("PUT", "/api/adapters/none/aliases/prod", {"version": 1}, 404, "adapter_not_found"),
        ("PUT", "/api/adapters/none/aliases/prod", {"version": 0}, 400, "invalid_request"),
        ("PUT", "/api/adapters/none/aliases/prod", {}, 400, "invalid_request"),
        ("PUT", "/api/adapters/none/aliases/prod", {"version": 1, "mode": "soon"}, 400, "invalid_request"),
        ("DELETE", "/api/adapters/none/aliases/prod", None, 404, "adapter_not_found"),
        ("POST", "/api/adapters", {"name": "a b", "path": "/tmp"}, 400, "invalid_request"),
        ("POST", "/api/adapters", {"name": "base", "path": "/tmp"}, 409, "conflict"),
        ("POST", "/api/adapters", {"name": "ok", "path": "/etc"}, 403, "path_not_allowed"),
        ("POST", "/api/adapters", {"name": "ok", "path": "a\0b"}, 400, "invalid_request"),
        ("POST", "/api/adapters", {"name": "ok"}, 400, "invalid_request"),
        ("POST", "/api/adapters:check", {"path": ""}, 400, "invalid_request"),
        ("POST", "/api/adapters:check", {"path": "/etc/passwd"}, 403, "path_not_allowed"),
        ("POST", "/api/resident", {"adapter": "none"}, 404, "adapter_not_found"),
        ("POST", "/api/resident", {"adapter": "a b"}, 400, "invalid_request"),
        ("DELETE", "/api/resident/none", None, 404, "adapter_not_found"),
        ("PUT", "/api/resident/none/pin", None, 404, "adapter_not_found"),
        ("DELETE", "/api/resident/none/pin", None, 404, "adapter_not_found"),
    ],
)
async def test_bad_input_is_refused_in_the_envelope(
    shared: App, method: str, path: str, body: Any, status: int, code: str
) -> None:
    reply = await shared.client.request(method, path, json=body)
    assert (reply.status_code, reply.json()["error"]["code"]) == (status, code)
    assert reply.json()["error"]["hint"]


async def test_loads_and_unloads_show_in_what_is_resident(app: App) -> None:
    await app.add("medical")
    row = (await app.client.get("/api/resident")).json()["resident"][0]
    assert (row["name"], row["version"], row["slot"], row["leases"]) == ("medical", 1, 0, 0)
    assert row["bytes"] > 0
    assert row["last_used"] is not None
    view = (await app.client.delete("/api/resident/medical")).json()
    assert view["name"] == "medical"
    while (await app.client.get("/api/resident")).json()["resident"]:
        pass
    change = (await app.post("/api/resident", {"adapter": "medical@1"})).json()
    assert (change["name"], change["version"]) == ("medical", 1)
    assert len((await app.client.get("/api/resident")).json()["resident"]) == 1


async def test_changes_need_the_admin_scope(making: Making) -> None:
    app = await making(infer_keys=("use",), admin_keys=("rule",))
    calls = [
        ("POST", "/api/adapters"),
        ("POST", "/api/adapters:check"),
        ("DELETE", "/api/adapters/x"),
        ("PUT", "/api/adapters/x/aliases/y"),
        ("DELETE", "/api/adapters/x/aliases/y"),
        ("POST", "/api/adapters/x/rollback"),
        ("POST", "/api/resident"),
        ("DELETE", "/api/resident/x"),
        ("PUT", "/api/resident/x/pin"),
        ("DELETE", "/api/resident/x/pin"),
    ]
    for method, path in calls:
        reply = await app.client.request(method, path, json={}, headers={"authorization": "Bearer use"})
        assert (reply.status_code, reply.json()["error"]["code"]) == (403, "insufficient_scope"), path
        reply = await app.client.request(method, path, json={}, headers={"authorization": "Bearer rule"})
        assert reply.status_code in (400, 404), path
