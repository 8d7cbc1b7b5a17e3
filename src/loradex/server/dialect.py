"""Routes of other servers, whose errors are in those servers' words."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import structlog
from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel

from loradex.errors import LoradexError
from loradex.server.body import JsonRoute
from loradex.server.errors import readable
from loradex.server.wire.error import ErrorReply

log = structlog.get_logger("loradex.server")


def speaking(say: Callable[[LoradexError], Response]) -> type[JsonRoute]:
    """Return a class of routes that answer every typed error by `say`."""

    class Speaking(JsonRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handle = super().get_route_handler()

            async def speak(request: Request) -> Response:
                try:
                    return await handle(request)
                except RequestValidationError as error:
                    return say(readable(error))
                except LoradexError as error:
                    if error.status >= 500:
                        log.error("request failed", code=error.code, message=error.message)
                    return say(error)

            return speak

    return Speaking


def errors(model: type[BaseModel]) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI entries of the errors of such routes; without a key they answer as every route does."""
    return {401: {"model": ErrorReply}, "4XX": {"model": model}, "5XX": {"model": model}}


def told(error: LoradexError) -> str:
    """Return an error as one text, with its fix."""
    return f"{error.message}. {error.hint}" if error.hint else error.message
