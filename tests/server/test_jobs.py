from __future__ import annotations

import asyncio
from typing import Any

import pytest

from .conftest import App, Making
from .serving import save_adapter


async def job(app: App, path: str, *states: str) -> Any:
    """The job, when it has come to one of these states."""
    async with asyncio.timeout(10):
        while (found := (await app.client.get(path)).json())["state"] not in states:
            await asyncio.sleep(0.005)
    return found


@pytest.mark.parametrize("way", ["header", "query"])
async def test_a_verb_becomes_a_job(app: App, way: str) -> None:
    body = {"name": "medical", "path": str(save_adapter(app.deck.folder / "medical"))}
    if way == "header":
        reply = await app.post("/api/adapters", body, prefer="handling=lenient, respond-async")
        assert reply.headers["preference-applied"] == "respond-async"
    else:
        reply = await app.client.post("/api/adapters?wait=false", json=body)
    assert reply.status_code == 202
    path = reply.headers["location"]
    assert path == f"/api/jobs/{reply.json()['id']}"
    found = await job(app, path, "done")
    assert (found["kind"], found["target"], found["actor"], found["error"]) == ("add", "medical", "http", None)
    assert found["result"]["version"] == 1
    assert (await app.client.get("/api/jobs")).json() == {"jobs": [found]}
    for verb in (
        app.client.put("/api/adapters/medical/aliases/prod?wait=false", json={"version": 1}),
        app.client.post("/api/resident?wait=false", json={"adapter": "medical@prod"}),
        app.client.post("/api/adapters/medical/rollback?wait=false"),
    ):
        reply = await verb
        assert reply.status_code == 202
        found = await job(app, reply.headers["location"], "done", "failed")
    assert (found["state"], found["error"]["code"]) == ("failed", "adapter_not_found")
    assert [each["kind"] for each in (await app.client.get("/api/jobs")).json()["jobs"]] == [
        "rollback",
        "load",
        "promote",
        "add",
    ]


async def test_a_job_is_cancelled(app: App) -> None:
    app.deck.engine.loads_allowed.clear()
    body = {"name": "medical", "path": str(save_adapter(app.deck.folder / "medical"))}
    path = (await app.client.post("/api/adapters?wait=false", json=body)).headers["location"]
    async with asyncio.timeout(10):
        while (await app.client.get(path)).json()["stage"] != "load":
            await asyncio.sleep(0.005)
    assert (await app.client.delete(path)).json()["state"] == "cancelling"
    app.deck.engine.loads_allowed.set()
    await job(app, path, "cancelled")
    assert (await app.client.get("/api/adapters")).json()["adapters"] == []
    assert (await app.client.delete(path)).status_code == 409
    assert (await app.client.delete("/api/jobs/nobody")).status_code == 404


async def test_jobs_are_the_admins(making: Making) -> None:
    app = await making(infer_keys=("use",), admin_keys=("rule",))
    for key, status in (("use", 403), ("rule", 200)):
        reply = await app.client.get("/api/jobs", headers={"authorization": f"Bearer {key}"})
        assert reply.status_code == status


async def test_a_drain_as_a_job(app: App) -> None:
    await app.client.post(
        "/api/adapters", json={"name": "medical", "path": str(save_adapter(app.deck.folder / "medical"))}
    )
    held = await app.deck.service.residency.acquire(app.deck.service.registry.resolve("medical").digest)
    reply = await app.client.delete("/api/resident/medical?mode=drain&timeout=60&wait=false")
    assert reply.status_code == 202
    path = reply.headers["location"]
    assert (await job(app, path, "running"))["stage"] in ("waiting", "drain")
    held.release()
    found = await job(app, path, "done", "failed")
    assert (found["state"], found["kind"], found["result"]) == ("done", "unload", None)


async def test_the_modes_of_unload(app: App) -> None:
    await app.client.post(
        "/api/adapters", json={"name": "medical", "path": str(save_adapter(app.deck.folder / "medical"))}
    )
    held = await app.deck.service.residency.acquire(app.deck.service.registry.resolve("medical").digest)
    assert (await app.client.delete("/api/resident/medical?mode=gently")).status_code == 400
    late = await app.client.delete("/api/resident/medical?mode=drain&timeout=0.01")
    assert (late.status_code, late.json()["error"]["code"]) == (409, "conflict")
    held.release()
    forced = await app.client.delete("/api/resident/medical?mode=force")
    assert (forced.status_code, forced.json()["versions"][0]["resident"]) == (200, False)
