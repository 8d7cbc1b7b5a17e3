"""Real sockets that close in the middle: everything that the answer held must be free at once."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from .serving import Deck, eventually, save_adapter, served

CHAT = {"messages": [{"role": "user", "content": "x" * 300}]}
TEXT = {"prompt": "x" * 300, "max_tokens": 300}


@pytest.fixture(scope="module")
def deck(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deck]:
    with served(tmp_path_factory.mktemp("deck"), tokens_per_second=50.0) as deck:
        folder = save_adapter(deck.folder / "medical")
        httpx.post(f"{deck.url}/api/adapters", json={"name": "medical", "path": str(folder)}).raise_for_status()
        yield deck


def send(deck: Deck, path: str, body: dict[str, Any]) -> socket.socket:
    """Send a request and leave its reply unread."""
    host, port = deck.url.removeprefix("http://").split(":")
    content = json.dumps({"model": "medical", **body}).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(content)}\r\n\r\n"
    )
    sock = socket.create_connection((host, int(port)))
    sock.sendall(head.encode() + content)
    return sock


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {**CHAT, "stream": True}),
        ("/v1/chat/completions", {**CHAT, "stream": True, "n": 3}),
        ("/v1/completions", {**TEXT, "stream": True}),
        ("/v1/completions", {**TEXT, "stream": True, "prompt": ["x" * 300, "y" * 300]}),
    ],
)
def test_a_stream_that_is_closed_frees_all_it_held(deck: Deck, path: str, body: dict[str, Any]) -> None:
    with send(deck, path, body) as sock:
        seen = b""
        while seen.count(b"data: ") < 3:
            seen += sock.recv(4096)
        assert deck.leases() >= 1
        assert eventually(lambda: deck.engine.stats().running >= 1)
    assert eventually(deck.idle, seconds=2)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", CHAT),
        ("/v1/completions", {**TEXT, "n": 2}),
        ("/v1/completions", {**TEXT, "prompt": ["x" * 300, "y" * 300]}),
    ],
)
def test_an_answer_that_nobody_waits_for_is_cancelled(deck: Deck, path: str, body: dict[str, Any]) -> None:
    with send(deck, path, body):
        assert eventually(lambda: deck.engine.stats().running >= 1)
    assert eventually(deck.idle, seconds=2)


def test_a_client_that_goes_while_its_adapter_waits_for_a_slot_leaves_nothing(tmp_path: Path) -> None:
    with served(tmp_path, max_loras=1, tokens_per_second=50.0) as deck:
        for index, name in enumerate(("medical", "legal")):
            folder = save_adapter(deck.folder / name, seed=index)
            reply = httpx.post(f"{deck.url}/api/adapters", json={"name": name, "path": str(folder)})
            assert reply.status_code == 200
        with send(deck, "/v1/completions", {**TEXT, "model": "medical", "stream": True}):
            assert eventually(lambda: deck.engine.stats().running == 1)
            with send(deck, "/v1/completions", {**TEXT, "model": "legal", "stream": True}):
                assert eventually(lambda: any(hold.waiting for hold in deck.service.residency.states().values()))
            assert eventually(lambda: not any(hold.waiting for hold in deck.service.residency.states().values()))
            assert deck.leases() == 1
        assert eventually(deck.idle, seconds=2)


def test_the_server_goes_on_after_all_that(deck: Deck) -> None:
    reply = httpx.post(f"{deck.url}/v1/completions", json={"prompt": "a", "model": "medical", "max_tokens": 5})
    assert reply.status_code == 200
