from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from loradex.client.aio import AsyncClient

from .conftest import App, Making
from .serving import Deck, eventually, save_adapter, served


async def two(app: App) -> None:
    await app.add("medical")
    await app.add("medical", seed=1)


async def who(app: App, user: str | None = None, **headers: str) -> str:
    body = {"model": "medical", "messages": [{"role": "user", "content": "hello"}], "user": user}
    reply = await app.post("/v1/chat/completions", body, **headers)
    return reply.headers["x-loradex-adapter"]


async def test_a_canary_is_set_shown_used_and_ended(app: App) -> None:
    await two(app)
    reply = await app.client.put("/api/adapters/medical/canary", json={"shares": {"1": 50, "2": 50.0}})
    assert (reply.status_code, reply.json()["canary"]) == (200, {"1": 50.0, "2": 50.0})
    found = Counter([await who(app) for _ in range(20)])
    assert set(found) == {"medical@1", "medical@2"}
    users = {user: await who(app, user) for user in map(str, range(20))}
    assert set(users.values()) == set(found)
    for user, version in users.items():
        assert await who(app, user) == version
        assert await who(app, "another", x_loradex_sticky=user) == version  # the header goes first
        reply = await app.complete(model="medical", prompt=["a", "b", "c"], user=user)
        assert reply.headers["x-loradex-adapter"] == version
    reply = await app.client.delete("/api/adapters/medical/canary")
    assert (reply.status_code, reply.json()["canary"]) == (200, {})
    assert {await who(app) for _ in range(4)} == {"medical@2"}
    assert (await app.client.delete("/api/adapters/medical/canary")).status_code == 404


async def test_a_version_is_added_as_a_canary(app: App) -> None:
    await app.add("medical")
    folder = str(save_adapter(app.deck.folder / "v2", seed=2))
    reply = await app.post("/api/adapters", {"name": "medical", "path": folder, "canary": 10})
    assert (reply.status_code, reply.json()["version"]) == (200, 2)
    view = (await app.client.get("/api/adapters/medical")).json()
    assert (view["current"], view["canary"]) == (1, {"1": 90.0, "2": 10.0})
    note = (await app.client.get("/api/adapters/medical/history")).json()["history"][0]["note"]
    assert note == "1=90 2=10"


@pytest.mark.parametrize(
    "shares", [{}, {"x": 10}, {"0": 10}, {"2147483648": 1}, {"-1": 10}, {"2": 101}, {"2": "10"}, {"2": 60, "1": 60}, 5]
)
async def test_wrong_shares_are_a_400(app: App, shares: Any) -> None:
    await two(app)
    reply = await app.client.put("/api/adapters/medical/canary", json={"shares": shares})
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "invalid_request")


async def test_history_says_whose_key_it_was(making: Making) -> None:
    app = await making(infer_keys=("guest=look",), admin_keys=("ops=rule", "nameless"))
    folder = str(save_adapter(app.deck.folder / "medical"))
    for key, status in (("look", 403), ("ops=rule", 401), ("rule", 200)):
        reply = await app.post("/api/adapters", {"name": "medical", "path": folder}, authorization=f"Bearer {key}")
        assert reply.status_code == status
    body = {"version": 1}
    headers = {"authorization": "Bearer nameless"}
    await app.client.put("/api/adapters/medical/aliases/prod", json=body, headers=headers)
    rows = (await app.client.get("/api/adapters/medical/history", headers=headers)).json()["history"]
    assert rows[1]["who"] == "ops"
    assert rows[0]["who"].startswith("key-")
    assert "nameless" not in rows[0]["who"]


async def load(
    deck: Deck, client: AsyncClient, seen: Counter[str], labels: dict[str, str], over: asyncio.Event
) -> None:
    """Ask again and again, as streams; every answer is whole, and all of it is of the version that it names."""
    while not over.is_set():
        async with await client.stream("medical", "x" * 20) as stream:
            text = await stream.text()
        assert stream.finish_reason == "stop"
        assert text == f"{labels[stream.adapter]}: user: {'x' * 20}\nassistant: "
        seen[stream.adapter] += 1


@pytest.mark.parametrize("change", ["rollback of a canary", "rollback of a replace"])
def test_a_rollback_under_load_loses_and_mixes_nothing(tmp_path: Path, change: str) -> None:
    async def play(deck: Deck) -> Counter[str]:
        seen: Counter[str] = Counter()
        over = asyncio.Event()
        async with AsyncClient(deck.url) as client, asyncio.TaskGroup() as group:
            labels: dict[str, str] = {}
            for seed in range(2):
                folder = save_adapter(deck.folder / str(seed), seed=seed)
                made = await client.adapters.add("medical", folder, canary=50 if seed and "canary" in change else None)
                labels[f"medical@{made.version}"] = made.digest[:8]
            for _ in range(16):
                group.create_task(load(deck, client, seen, labels, over))
            while seen["medical@2"] < 20:
                await asyncio.sleep(0.005)
            assert (await client.adapters.rollback("medical")).version == 1
            assert (await client.chat("medical", "hello")).adapter == "medical@1"
            before = sum(seen.values())
            while sum(seen.values()) < before + 40:
                await asyncio.sleep(0.005)
            over.set()
        return seen

    with served(tmp_path, tokens_per_second=2000) as deck:
        seen = asyncio.run(play(deck))
        assert min(seen.values()) >= 20
        assert eventually(lambda: deck.idle() and len(deck.engine.resident()) == 1)


async def test_a_shadow_is_set_shown_and_ended(app: App) -> None:
    await two(app)
    reply = await app.client.put("/api/adapters/medical/shadow", json={"version": 1, "percent": 50})
    assert (reply.status_code, reply.json()["shadow"]) == (200, {"version": 1, "percent": 50.0})
    assert await who(app) == "medical@2"
    for body in ({}, {"version": 1, "percent": 0}, {"version": 0}, {"version": "1"}):
        assert (await app.client.put("/api/adapters/medical/shadow", json=body)).status_code == 400
    assert (await app.client.put("/api/adapters/medical/shadow", json={"version": 9})).status_code == 404
    reply = await app.client.delete("/api/adapters/medical/shadow")
    assert (reply.status_code, reply.json()["shadow"]) == (200, None)
    assert (await app.client.delete("/api/adapters/medical/shadow")).status_code == 404
