"""What happens around every request: its id, the limit on its body, the access log and the last resort."""

from __future__ import annotations

import re
import time
import uuid

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from loradex.errors import BodyTooLarge
from loradex.server.errors import reply_to, unexpected

log = structlog.get_logger("loradex.server")

MAX_BODY = 32 << 20
"""Bytes of a request body: far above any prompt that fits a context."""

_UPLOAD = re.compile(r"/api/adapters/[^/]+/files")
"""Where adapters are sent: straight to disk, so that they may be larger."""

_SANE = re.compile(r"[!-~]{1,128}")

_QUIET = re.compile(r"(?:GET|HEAD) /(?:health|ready|metrics|api/jobs/[^/]+)")
"""What monitors, and clients that follow a job, ask again and again; it is logged at debug level."""


def sane_id(given: str | None) -> str:
    """Return the client's request id if it can stand in headers, logs and ids, else a new one."""
    return given if given and _SANE.fullmatch(given) else uuid.uuid4().hex


class Edge:
    """Outermost middleware: names the request, logs it, and answers what nobody foresaw."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        request_id = sane_id(Headers(scope=scope).get("x-request-id"))
        scope.setdefault("state", {})["request_id"] = request_id
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=request_id)
        began = time.monotonic()
        status, adapter = 0, None

        async def watched(message: Message) -> None:
            nonlocal status, adapter
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = request_id
                status, adapter = message["status"], headers.get("x-loradex-adapter")
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except Exception:  # an edge: the client is told that something failed, the log what
            log.exception("request failed")
            if not status:
                await reply_to(unexpected(request_id), request_id)(scope, receive, watched)
        finally:
            write = log.debug if _QUIET.fullmatch(f"{scope['method']} {scope['path']}") else log.info
            seconds = round(time.monotonic() - began, 4)
            extra = {"adapter": adapter} if adapter else {}
            # As it was sent: decoded, a path may hold line breaks, which would forge lines of the log.
            path = scope.get("raw_path", b"").decode("latin-1") or scope["path"]
            write("request", method=scope["method"], path=path, status=status, seconds=seconds, **extra)


class BodyLimit:
    """Middleware: refuses bodies that are too large, whether or not they say so beforehand."""

    def __init__(self, app: ASGIApp, limit: int = MAX_BODY, upload: int = MAX_BODY) -> None:
        self._app = app
        self._limit = limit
        self._upload = upload

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, counting what it sends."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        limit = self._upload if scope["method"] == "PUT" and _UPLOAD.fullmatch(scope["path"]) else self._limit
        said = f"The body is larger than {limit} bytes"
        length = Headers(scope=scope).get("content-length", "")
        if length.isdecimal() and int(length) > limit:
            return await reply_to(BodyTooLarge(said), scope["state"]["request_id"])(scope, receive, send)
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > limit:
                # The framework passes this kind on, and turns any other into a 400.
                raise HTTPException(413, said)
            return message

        await self._app(scope, counted, send)
