"""vLLM's `load_lora_adapter` and `unload_lora_adapter`, in vLLM's own words.

Where vLLM answers 500 or serves something wrong, the whole report of the check is answered with status 400.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from http import HTTPStatus
from typing import Any

import structlog
from fastapi import APIRouter, Depends, Request, Response
from fastapi.exceptions import RequestValidationError

from loradex.errors import (
    AdapterInvalid,
    AdapterNotFound,
    Conflict,
    FilesNotFound,
    InvalidRequest,
    LoradexError,
    PathNotAllowed,
)
from loradex.server.auth import Actor, may_admin
from loradex.server.body import JsonRoute, ignored
from loradex.server.errors import AsciiJSON, path_of, say
from loradex.server.state import TheConfig, TheService
from loradex.server.wire.error import VllmErrorBody, VllmErrorReply
from loradex.server.wire.vllm import LoadLoraBody, UnloadLoraBody

log = structlog.get_logger("loradex.server")

_TYPES = {400: "BadRequestError", 404: "NotFoundError", 500: "InternalServerError"}
_ERRORS: dict[int | str, dict[str, Any]] = {
    **{code: {"model": VllmErrorReply} for code in (400, 401, 403, 404, 500, 503)},
    "4XX": {"model": VllmErrorReply},
}
_TEXT: dict[int | str, dict[str, Any]] = {200: {"description": "Plain text, sent without a content type"}}


class Refusal(Exception):
    """An answer of vLLM's."""

    def __init__(self, status: int, kind: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status, self.kind, self.message, self.param = status, kind, message, param


class VllmRoute(JsonRoute):
    """A route whose errors are in vLLM's envelope."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler."""
        handle = super().get_route_handler()

        async def speaking(request: Request) -> Response:
            try:
                return await handle(request)
            except Refusal as error:
                return _reply(error.status, error.kind, error.message, error.param)
            except RequestValidationError as error:
                return _invalid(error)
            except LoradexError as error:
                if error.status >= 500:
                    log.error("request failed", code=error.code, message=error.message)
                kind = _TYPES.get(error.status) or HTTPStatus(error.status).phrase
                return _reply(error.status, kind, f"{error.message}. {error.hint}", error.param)

        return speaking


router = APIRouter(prefix="/v1", tags=["vLLM"], route_class=VllmRoute, dependencies=[Depends(may_admin)])


@router.post("/load_lora_adapter", response_class=Response, responses={**_TEXT, **_ERRORS})
async def load_lora_adapter(body: LoadLoraBody, service: TheService, config: TheConfig, actor: Actor) -> Response:
    """Load an adapter under a name; with `load_inplace`, as the next version of a name that is there."""
    headers = ignored(body, config.strict)
    name = body.lora_name
    if not name or not body.lora_path:
        raise Refusal(400, "InvalidUserInput", "Both 'lora_name' and 'lora_path' must be provided.")
    if name in service.base_names:
        raise Refusal(400, "InvalidUserInput", f"The lora adapter '{name}' conflicts with a served base model.")
    if body.is_3d_lora_weight:
        raise Refusal(400, "BadRequestError", "`is_3d_lora_weight` is not offered by this server", "is_3d_lora_weight")
    if "\0" in body.lora_path:
        raise Refusal(400, "InvalidUserInput", "`lora_path` holds a null character.")
    try:
        await service.adapters.add(name, body.lora_path, mode=body.loradex_mode, replace=body.load_inplace, actor=actor)
    except Conflict as error:
        said = f"The lora adapter '{name}' has already been loaded."
        more = " If you want to load the adapter in place, set 'load_inplace' to True."
        if body.load_inplace:
            raise
        raise Refusal(400, "InvalidUserInput", said + more) from error
    except FilesNotFound as error:
        said = f"Loading lora {name} failed: No adapter found for {body.lora_path}"
        raise Refusal(404, "NotFoundError", said) from error
    except AdapterInvalid as error:
        raise Refusal(400, "BadRequestError", f"{error.message}. {error.hint}") from error
    except PathNotAllowed as error:
        raise Refusal(403, "Forbidden", f"{error.message}. {error.hint}") from error
    except InvalidRequest as error:
        raise Refusal(400, "InvalidUserInput", f"{error.message}. {error.hint}") from error
    return Response(f"Success: LoRA adapter '{name}' added successfully.", headers=headers)


@router.post("/unload_lora_adapter", response_class=Response, responses={**_TEXT, **_ERRORS})
async def unload_lora_adapter(body: UnloadLoraBody, service: TheService, config: TheConfig, actor: Actor) -> Response:
    """Take a name out of the model list and free its weights when its last answer has ended."""
    headers = ignored(body, config.strict)
    name = body.lora_name
    if not name:
        raise Refusal(400, "InvalidUserInput", "'lora_name' needs to be provided to unload a LoRA adapter.")
    missing = Refusal(404, "NotFoundError", f"The lora adapter '{name}' cannot be found.")
    try:
        if "@" in name or not (await service.adapters.get(name)).enabled:
            raise missing
        await service.residents.unload(name, disable=True, actor=actor)
    except (AdapterNotFound, InvalidRequest) as error:
        raise missing from error
    return Response(f"Success: LoRA adapter '{name}' removed successfully.", headers=headers)


def _invalid(error: RequestValidationError) -> Response:
    found = error.errors()
    where = [".".join(["body", *([path] if (path := path_of(each)) else [])]) for each in found]
    if found[0]["type"] == "json_invalid":
        where = [f"body.{found[0]['loc'][-1]}"]
    lines = "; ".join(f"{path}: {say(each, error.body)}" for path, each in zip(where, found, strict=True))
    return _reply(400, HTTPStatus.BAD_REQUEST.phrase, f"{len(found)} validation error(s): {lines}", where[0])


def _reply(status: int, kind: str, message: str, param: str | None) -> Response:
    body = VllmErrorBody(message=message, type=kind, param=param, code=status)
    return AsciiJSON(VllmErrorReply(error=body).model_dump(), status)
