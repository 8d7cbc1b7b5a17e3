"""Server-sent events: how a stream of chunks is written, and ended when the client goes away."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import Any

import structlog
from fastapi.responses import Response
from starlette.types import Receive, Scope, Send

from loradex.errors import LoradexError
from loradex.server.attend import attended
from loradex.server.errors import ClientGone, body_of, unexpected

log = structlog.get_logger("loradex.server")

DONE = b"data: [DONE]\n\n"

_encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode


def frame(content: Mapping[str, Any]) -> bytes:
    """Return one event."""
    return b"data: " + _encode(content).encode() + b"\n\n"


class EventStream(Response):
    """Streams chunks as events, then `done`. A failure on the way is one event with the error, then the end.

    `close` runs exactly once, whatever happens: at the end, on an error, and when the client disconnects.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        chunks: AsyncGenerator[Mapping[str, Any], None],
        close: Callable[[], Awaitable[None]],
        headers: Mapping[str, str],
        *,
        done: bytes = DONE,
        explain: Callable[[LoradexError, str], Mapping[str, Any]] = body_of,
    ) -> None:
        super().__init__(headers={"cache-control": "no-cache", "x-accel-buffering": "no", **headers})
        del self.headers["content-length"]
        self._chunks = chunks
        self._close = close
        self._done = done
        self._explain = explain

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Write the stream."""
        try:
            await attended(receive, self._write(scope, send))
        except ClientGone:
            log.info("client went away")
        finally:
            # The cancellation of a server that stops must not leave an answer running.
            await asyncio.shield(self._close())

    async def _write(self, scope: Scope, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async with aclosing(self._frames(scope["state"].get("request_id", ""))) as frames:
            async for data in frames:
                await send({"type": "http.response.body", "body": data, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _frames(self, request_id: str) -> AsyncGenerator[bytes, None]:
        try:
            async with aclosing(self._chunks) as chunks:
                async for chunk in chunks:
                    yield frame(chunk)
        except LoradexError as error:
            log.error("stream failed", code=error.code, message=error.message)
            yield frame(self._explain(error, request_id))
        except Exception:  # an edge, once the status is sent
            log.exception("stream failed")
            yield frame(self._explain(unexpected(request_id), request_id))
        else:
            yield self._done
