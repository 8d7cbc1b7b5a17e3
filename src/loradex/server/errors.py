"""The server's one map from exceptions to replies: OpenAI's envelope on every route but vLLM's two."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from loradex.errors import AdapterInvalid, BodyTooLarge, InvalidRequest, LoradexError
from loradex.server.wire.error import ErrorBody, ErrorReply, ProblemBody

log = structlog.get_logger("loradex.server")

CLIENT_CLOSED = 499
"""Status that nobody receives; it tells the access log that the client went away."""

_TYPES = {401: "authentication_error", 403: "permission_error"}
_SHOWN = 5
"""Validation errors named in one message; the rest are counted."""


class AsciiJSON(JSONResponse):
    """JSON that can always be encoded: a message may quote half a surrogate pair or an infinity from a request."""

    def render(self, content: Any) -> bytes:
        """Return the body."""
        return json.dumps(content, separators=(",", ":")).encode("ascii")


class ClientGone(Exception):
    """The client closed the connection before its answer was complete."""


def request_id(request: Request) -> str:
    """Return the id under which the request is answered and logged."""
    return str(getattr(request.state, "request_id", ""))


def body_of(error: LoradexError, request_id: str) -> dict[str, Any]:
    """Return the envelope of a typed error."""
    kind = _TYPES.get(error.status, "server_error" if error.status >= 500 else "invalid_request_error")
    problems = None
    if isinstance(error, AdapterInvalid):
        problems = [ProblemBody(code=each.code, what=each.what, fix=each.fix) for each in error.problems]
    body = ErrorBody(
        message=error.message,
        type=kind,
        param=error.param,
        code=error.code,
        hint=error.hint,
        request_id=request_id,
        problems=problems,
    )
    # `problems` is there only where an adapter was refused; `param` is null in OpenAI's envelope, never absent.
    return ErrorReply(error=body).model_dump(exclude={"error": {"problems"}} if problems is None else None)


def reply_to(error: LoradexError, request_id: str) -> Response:
    """Return the reply for a typed error."""
    headers = {"x-request-id": request_id}
    if error.status == HTTPStatus.UNAUTHORIZED:
        headers["www-authenticate"] = "Bearer"
    if error.status == HTTPStatus.SERVICE_UNAVAILABLE:
        headers["retry-after"] = "1"
    return AsciiJSON(body_of(error, request_id), error.status, headers)


def unexpected(request_id: str) -> LoradexError:
    """Return what a client is told of an exception that nobody foresaw: its id in the log, and nothing of ours."""
    return LoradexError(
        "The server failed on this request", hint=f"Look in the server's log for request {request_id or 'id'}"
    )


def readable(error: RequestValidationError) -> InvalidRequest:
    """Return FastAPI's validation errors as one error of ours, with a message that names each field."""
    found = error.errors()
    first = path_of(found[0])
    lines = []
    for each in found[:_SHOWN]:
        path = path_of(each)
        lines.append(f"{path}: {say(each, error.body)}" if path else say(each, error.body))
    if len(found) > _SHOWN:
        lines.append(f"and {len(found) - _SHOWN} more")
    return InvalidRequest("; ".join(dict.fromkeys(lines)), param=first or None)


def path_of(error: Mapping[str, Any]) -> str:
    """Return the dotted path of the field at fault, without the part of the request that it lies in."""
    location: Sequence[object] = error["loc"]
    if error["type"] == "json_invalid":
        return ""
    return ".".join(_clean(str(part)) for part in location[1:])


def say(error: Mapping[str, Any], body: object = None) -> str:
    """Return one validation error in words."""
    if error["type"] == "json_invalid":
        return f"The body is not valid JSON: {error['ctx']['error']} at character {error['loc'][-1]}"
    if tuple(error["loc"]) == ("body",):
        if isinstance(body, bytes | str) and body:
            return "The body is not JSON: send a JSON object with `Content-Type: application/json`"
        return "The body must be a JSON object"
    message = str(error["msg"])
    message = message[:1].lower() + message[1:]
    given = error.get("input")
    if isinstance(given, bool | int | float) and len(text := str(given)) <= 40:
        return f"{message}, not {text}"
    return message


def _clean(part: str) -> str:
    """A key of the client's own may be long, or not printable: both would spoil the message."""
    shown = part if part.isprintable() else ascii(part)[1:-1]
    return shown if len(shown) <= 64 else shown[:61] + "..."


def install(app: FastAPI) -> None:
    """Answer every error of the routes in the right envelope."""
    app.add_exception_handler(LoradexError, _typed)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(ClientGone, _gone)


async def _typed(request: Request, error: Exception) -> Response:
    known = error if isinstance(error, LoradexError) else unexpected(request_id(request))
    if known.status >= 500:
        log.error("request failed", code=known.code, message=known.message)
    return reply_to(known, request_id(request))


async def _invalid(request: Request, error: Exception) -> Response:
    if not isinstance(error, RequestValidationError):
        return reply_to(unexpected(request_id(request)), request_id(request))
    return reply_to(readable(error), request_id(request))


async def _http(request: Request, error: Exception) -> Response:
    """Unknown routes and wrong methods keep the framework's own body, as clients of vLLM know it."""
    if not isinstance(error, HTTPException):
        return reply_to(unexpected(request_id(request)), request_id(request))
    if error.status_code == HTTPStatus.BAD_REQUEST:
        return reply_to(InvalidRequest(str(error.detail)), request_id(request))
    if error.status_code == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        return reply_to(BodyTooLarge(str(error.detail)), request_id(request))
    headers = {**(error.headers or {}), "x-request-id": request_id(request)}
    return AsciiJSON({"detail": error.detail}, error.status_code, headers)


async def _gone(request: Request, error: Exception) -> Response:
    return Response(status_code=CLIENT_CLOSED)
