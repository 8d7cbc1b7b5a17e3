"""What every route may ask for."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Depends, Request

from loradex.errors import EngineStopped
from loradex.server.wire.error import ErrorReply
from loradex.service.service import Service
from loradex.settings import ServerConfig


def is_ready(request: Request) -> bool:
    """Return whether requests can be answered: the service runs, and whoever runs the server has prepared it."""
    state = request.app.state
    return bool(state.open and state.service.ready)


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    if not is_ready(request):
        raise EngineStopped("The server is not ready: it loads its model, or it stops", hint="Wait for GET /ready")
    return service


def _config(request: Request) -> ServerConfig:
    config: ServerConfig = request.app.state.config
    return config


TheService = Annotated[Service, Depends(_service)]
TheConfig = Annotated[ServerConfig, Depends(_config)]

_MEANINGS = {
    400: "The request is wrong; `param` names the field",
    401: "No API key, or an unknown one",
    403: "The key lacks the scope, or the path is not allowed",
    404: "No such model, adapter, version or alias",
    409: "The name is taken, or another change came first",
    500: "The server failed on this request",
    502: "The place from which an adapter was to come cannot be read",
    503: "No room now, or the engine is not running",
}


def refusals(*codes: int) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI entries of the errors that a route may answer; any route may answer 413 and 500."""
    found: dict[int | str, dict[str, Any]] = {
        code: {"model": ErrorReply, "description": _MEANINGS[code]} for code in sorted({*codes, 401, 500})
    }
    # Named "4XX", so that FastAPI does not promise its own 422, which no route answers.
    found["4XX"] = {"model": ErrorReply, "description": "Any other refusal, such as 413 for a body that is too large"}
    return found
