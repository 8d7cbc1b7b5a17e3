from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

from loradex.errors import EngineFailed
from loradex.server.sse import EventStream, frame


async def play(*steps: dict[str, Any] | Exception, gone: bool = False) -> tuple[list[str], int]:
    """Write a stream; return its events and how often it was closed."""
    closed = 0
    wrote = asyncio.Event()

    async def chunks() -> AsyncGenerator[dict[str, Any], None]:
        for step in steps:
            if isinstance(step, Exception):
                raise step
            yield step
        if gone:
            await asyncio.Event().wait()

    async def close() -> None:
        nonlocal closed
        closed += 1

    async def receive() -> dict[str, Any]:
        await (wrote if gone else asyncio.Event()).wait()
        return {"type": "http.disconnect"}

    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)
        if message.get("body"):
            wrote.set()

    stream = EventStream(chunks(), close, {"x-loradex-adapter": "base"})
    await stream({"type": "http", "state": {"request_id": "r1"}}, receive, send)
    headers = {key.decode(): value.decode() for key, value in sent[0]["headers"]}
    assert headers["cache-control"] == "no-cache"
    assert headers["x-accel-buffering"] == "no"
    assert headers["x-loradex-adapter"] == "base"
    assert headers["content-type"].startswith("text/event-stream")
    assert "content-length" not in headers
    body = b"".join(message["body"] for message in sent[1:]).decode()
    return [event.removeprefix("data: ") for event in body.split("\n\n") if event], closed


async def test_a_stream_ends_with_done() -> None:
    assert await play({"a": 1}, {"b": "ü\n"}) == (['{"a":1}', '{"b":"ü\\n"}', "[DONE]"], 1)


async def test_a_failure_is_one_event_and_no_done() -> None:
    events, closed = await play({"a": 1}, EngineFailed("broke"))
    error = json.loads(events[1])["error"]
    assert (error["code"], error["message"], error["request_id"]) == ("engine_failed", "broke", "r1")
    assert len(events) == 2
    assert closed == 1


async def test_what_nobody_foresaw_tells_nothing_of_ours() -> None:
    events, closed = await play(RuntimeError("secret"))
    assert "secret" not in events[0]
    assert json.loads(events[0])["error"]["code"] == "internal_error"
    assert closed == 1


async def test_a_client_that_goes_closes_the_answer() -> None:
    assert await play({"a": 1}, gone=True) == (['{"a":1}'], 1)


def test_a_line_break_in_a_text_cannot_end_an_event() -> None:
    assert frame({"t": "a\n\nb"}).count(b"\n\n") == 1
