"""Adapters sent as a body: stored, checked and served, or refused with nothing left of them."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from loradex.client.aio import AsyncClient
from loradex.client.client import Client
from loradex.errors import AdapterInvalid, FilesNotFound
from tests.registry.sources.packing import contents, tar_of, zip_of

from .conftest import App, Making
from .serving import eventually, save_adapter, served


def stored(app: App) -> dict[str, bytes]:
    return contents(app.deck.service.registry.home / "blobs")


@pytest.mark.parametrize("pack", [zip_of, tar_of])
async def test_an_upload_is_served_like_a_folder(app: App, tmp_path: Path, pack: object) -> None:
    folder = save_adapter(tmp_path / "sent")
    body = pack(contents(folder))  # type: ignore[operator]
    sha256 = hashlib.sha256(body).hexdigest()
    reply = await app.client.put(f"/api/adapters/medical/files?sha256={sha256}", content=body)
    assert reply.status_code == 200, reply.text
    found = (await app.client.get("/api/adapters/medical")).json()
    assert [each["source"] for each in found["versions"]] == ["upload"]
    assert (await app.complete(model="medical")).headers["x-loradex-adapter"] == "medical@1"
    again = await app.client.put("/api/adapters/medical/files?replace=false", content=body)
    assert again.status_code == 409


@pytest.mark.parametrize(
    ("body", "query", "code"),
    [
        (b"", "", "invalid_request"),
        (b"nothing", "", "adapter_invalid"),
        (zip_of({"../../out": b"1"}), "", "adapter_invalid"),
        (zip_of({"adapter_config.json": b"{}"}), "", "adapter_files_not_found"),
        (zip_of({"a": b"1"}), "?sha256=abc", "invalid_request"),
        (zip_of({"a": b"1"}), "?mode=other", "invalid_request"),
        (zip_of({"a": b"1"}), "?canary=100", "invalid_request"),
    ],
)
async def test_what_is_refused_leaves_nothing(app: App, body: bytes, query: str, code: str) -> None:
    reply = await app.client.put(f"/api/adapters/medical/files{query}", content=body)
    assert reply.json()["error"]["code"] == code
    assert "tmp-" not in reply.text
    assert list((app.deck.service.registry.home / "blobs").iterdir()) == []


async def test_an_upload_goes_on_as_a_job(app: App, tmp_path: Path) -> None:
    body = zip_of(contents(save_adapter(tmp_path / "sent")))
    app.deck.engine.loads_allowed.clear()
    ends = []
    for cancelled in (True, False):
        begun = await app.client.put("/api/adapters/medical/files?wait=false", content=body)
        assert begun.status_code == 202
        place = begun.headers["location"]
        while (await app.client.get(place)).json()["stage"] != "load":
            await asyncio.sleep(0)
        if cancelled:
            await app.client.delete(place)
        else:
            app.deck.engine.loads_allowed.set()
        while (job := (await app.client.get(place)).json())["ended_at"] is None:
            await asyncio.sleep(0)
        ends.append((job["state"], len(stored(app))))
    assert ends == [("cancelled", 0), ("done", 3)]


async def test_another_pin_refuses_and_leaves_nothing(app: App, tmp_path: Path) -> None:
    body = zip_of(contents(save_adapter(tmp_path / "sent")))
    reply = await app.client.put(f"/api/adapters/medical/files?sha256={'0' * 64}", content=body)
    assert [each["code"] for each in reply.json()["error"]["problems"]] == ["sha256_mismatch"]
    assert stored(app) == {}
    assert (await app.client.get("/api/adapters")).json()["adapters"] == []


async def test_uploads_are_larger_than_other_bodies_but_not_endless(making: Making) -> None:
    app = await making(max_adapter_size=40 << 20)
    sent = 0

    async def zeros() -> AsyncIterator[bytes]:
        nonlocal sent
        while sent < 50 << 20:
            sent += 1 << 20
            yield bytes(1 << 20)

    reply = await app.client.put("/api/adapters/medical/files", content=zeros())
    assert (reply.status_code, reply.json()["error"]["code"]) == (413, "body_too_large")
    assert sent > 40 << 20
    said = await app.client.put("/api/adapters/x/files", content=b"1", headers={"content-length": str(41 << 20)})
    assert said.status_code == 413
    assert stored(app) == {}


async def test_only_admins_may_send(making: Making) -> None:
    app = await making(infer_keys=("reader",), admin_keys=("ops=writer",))
    for headers, status in (({}, 401), ({"authorization": "Bearer reader"}, 403)):
        reply = await app.client.put("/api/adapters/medical/files", content=b"x", headers=headers)
        assert reply.status_code == status


async def test_addresses_need_leave(app: App) -> None:
    for route, body in (
        ("/api/adapters", {"name": "a", "path": "http://127.0.0.1:9/a.zip"}),
        ("/api/adapters:check", {"path": "hf://acme/medical"}),
        ("/v1/load_lora_adapter", {"lora_name": "a", "lora_path": "http://169.254.169.254/latest"}),
    ):
        reply = await app.post(route, body)
        assert reply.status_code == 403
        assert "--allow-url" in reply.text


def test_clients_send_folders_and_archives_to_a_real_server(tmp_path: Path) -> None:
    folder = save_adapter(tmp_path / "sent")
    (folder / "optimizer.pt").write_bytes(b"x" * 100)
    archive = tmp_path / "sent.tar.gz"
    archive.write_bytes(tar_of(contents(save_adapter(tmp_path / "other", seed=1)), "w:gz"))
    told: dict[str, float] = {}
    with served(tmp_path) as deck, Client(deck.url) as client:
        first = client.adapters.upload("medical", folder, told=told.__setitem__)
        assert told["upload"] == 1.0
        assert client.adapters.upload("copy", folder, sha256=first.digest).digest == first.digest
        assert client.adapters.upload("medical", archive).version == 2

        async def sending() -> int:
            async with AsyncClient(deck.url) as other:
                return (await other.adapters.upload("medical", folder)).version

        assert asyncio.run(sending()) == 1
        with pytest.raises(FilesNotFound):
            client.adapters.upload("x", tmp_path / "none")
        with pytest.raises(AdapterInvalid):
            client.adapters.upload("x", folder / "optimizer.pt")


def test_a_client_that_goes_away_leaves_nothing(tmp_path: Path) -> None:
    import socket

    with served(tmp_path) as deck:
        host, port = deck.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as connection:
            head = f"PUT /api/adapters/a/files HTTP/1.1\r\nHost: {host}\r\nContent-Length: 1000000\r\n\r\n"
            connection.sendall(head.encode() + b"PK\x03\x04" * 1000)
            blobs = deck.service.registry.home / "blobs"
            assert eventually(lambda: any(blobs.iterdir()))
        assert eventually(lambda: not any(blobs.iterdir()))
