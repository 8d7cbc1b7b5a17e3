from __future__ import annotations

import json
from typing import Any

import pytest
import structlog
from starlette.types import Message, Receive, Scope, Send
from structlog.testing import capture_logs

from loradex.server.middleware import BodyLimit, Edge, sane_id


@pytest.mark.parametrize("good", ["a", "req-1_2.3", "x" * 128, "a/b:c"])
def test_a_sane_id_is_kept(good: str) -> None:
    assert sane_id(good) == good


@pytest.mark.parametrize("bad", [None, "", "x" * 129, "a b", "a\nb", "ü", "\x00", " "])
def test_any_other_is_replaced(bad: str | None) -> None:
    made = sane_id(bad)
    assert made != bad
    assert len(made) == 32


async def call(app: Any, body: bytes = b"", line: str = "POST /x", **headers: str) -> tuple[int, dict[str, str], bytes]:
    sent: list[Message] = []
    parts = [body[i : i + 4] for i in range(0, len(body), 4)] or [b""]

    async def receive() -> Message:
        return {"type": "http.request", "body": parts.pop(0), "more_body": bool(parts)}

    async def send(message: Message) -> None:
        sent.append(message)

    raw = [(key.replace("_", "-").encode(), value.encode()) for key, value in headers.items()]
    method, path = line.split()
    await app({"type": "http", "method": method, "path": path, "headers": raw}, receive, send)
    found = {key.decode(): value.decode() for key, value in sent[0]["headers"]}
    return sent[0]["status"], found, b"".join(message["body"] for message in sent[1:])


async def broken(scope: Scope, receive: Receive, send: Send) -> None:
    raise RuntimeError("secret")


async def test_what_nobody_foresaw_is_a_500_with_an_id_and_nothing_else() -> None:
    structlog.reset_defaults()  # a server in an earlier test may have set a level
    try:
        with capture_logs() as logs:
            status, headers, body = await call(Edge(broken), x_request_id="mine")
    finally:
        structlog.reset_defaults()  # to capture is to configure
    error = json.loads(body)["error"]
    assert status == 500
    assert headers["x-request-id"] == error["request_id"] == "mine"
    assert b"secret" not in body
    assert "mine" in error["hint"]
    assert logs[0]["exc_info"]
    assert logs[1]["status"] == 500


async def fine(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


@pytest.mark.parametrize(
    ("line", "level"),
    [
        ("GET /health", "debug"),
        ("GET /api/jobs/1f2e3d", "debug"),
        ("GET /api/jobs", "info"),
        ("DELETE /api/jobs/1f2e3d", "info"),
    ],
)
async def test_what_is_asked_again_and_again_is_logged_quietly(line: str, level: str) -> None:
    structlog.reset_defaults()
    try:
        with capture_logs() as logs:
            await call(Edge(fine), line=line)
    finally:
        structlog.reset_defaults()
    assert [each["log_level"] for each in logs] == [level]


async def test_a_body_that_says_it_is_too_large_is_refused_unread() -> None:
    status, _, body = await call(Edge(BodyLimit(broken, 8)), b"x" * 12, content_length="12")
    assert status == 413
    assert json.loads(body)["error"]["code"] == "body_too_large"
