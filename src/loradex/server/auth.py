"""Who may ask: API keys and their two scopes."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Literal

from fastapi import Depends, Request, Security
from fastapi.security import HTTPBearer
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from loradex.errors import AuthenticationFailed, PermissionDenied
from loradex.server.errors import AsciiJSON, reply_to

KeyScope = Literal["infer", "admin"]

_OPEN = frozenset({"/health", "/ready", "/docs", "/openapi.json"})
"""Probes carry no keys, and the documentation holds none."""

VLLM_PATHS = frozenset({"/v1/load_lora_adapter", "/v1/unload_lora_adapter"})
"""vLLM's two routes answer in vLLM's own words."""


_NAMED = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]{0,63})=(?!=*$)(.+)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, and what for. `name` is the key's, or made from its digest; empty on an open server."""

    scope: KeyScope
    name: str = ""


class Keys:
    """The keys that the server knows, as `KEY` or `NAME=KEY`. With none at all it is open: all may do everything."""

    def __init__(self, infer: Iterable[str] = (), admin: Iterable[str] = ()) -> None:
        # Digests have one length, so that a comparison tells nothing of a key, not even how long it is.
        self._callers = [*(_named(key, "admin") for key in admin), *(_named(key, "infer") for key in infer)]

    def __bool__(self) -> bool:
        return bool(self._callers)

    def caller(self, authorization: str | None) -> Caller:
        """Return whose an `Authorization` header is.

        Raises:
            AuthenticationFailed: no key, or an unknown one.
        """
        if not self._callers:
            return Caller("admin")
        kind, _, key = (authorization or "").partition(" ")
        if kind.lower() != "bearer" or not key.strip():
            raise AuthenticationFailed("No API key was sent")
        given = _digest(key.strip())
        matches = [caller for known, caller in self._callers if hmac.compare_digest(given, known)]
        if not matches:
            raise AuthenticationFailed("The API key is not known to this server")
        return matches[0]


class Authenticate:
    """Middleware: finds out who asks, before anything of the request is read."""

    def __init__(self, app: ASGIApp, keys: Keys) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on with its scope, or answer 401."""
        if scope["type"] != "http" or scope["path"] in _OPEN:
            return await self._app(scope, receive, send)
        try:
            caller = self._keys.caller(_authorization(scope))
        except AuthenticationFailed as error:
            request_id = scope["state"].get("request_id", "")
            response = reply_to(error, request_id)
            if scope["path"] in VLLM_PATHS:
                response = AsciiJSON({"error": "Unauthorized"}, 401, {"www-authenticate": "Bearer"})
            return await response(scope, receive, send)
        scope["state"]["caller"] = caller
        await self._app(scope, receive, send)


_bearer = HTTPBearer(auto_error=False, description="A key that the server was started with. Without keys it is open.")


def may_infer(request: Request, _: object = Security(_bearer)) -> None:
    """Dependency of routes that any key may use; it names the scheme in the OpenAPI."""


def may_admin(request: Request, _: object = Security(_bearer)) -> None:
    """Dependency of routes that change adapters.

    Raises:
        PermissionDenied: the key has only the `infer` scope.
    """
    if not is_admin(request):
        raise PermissionDenied(f"{request.method} {request.url.path} needs a key with the `admin` scope")


def is_admin(request: Request) -> bool:
    """Return whether the request may change adapters."""
    return bool(request.state.caller.scope == "admin")


def actor_of(request: Request) -> str:
    """Return who changes an adapter: the name of the key, or `http` on a server without keys."""
    return str(request.state.caller.name or "http")


Actor = Annotated[str, Depends(actor_of)]
"""Who changes an adapter, for its history: the name of the key, or `http` on a server without keys."""


def _authorization(scope: Scope) -> str | None:
    # Headers are read as Latin-1; keys beyond ASCII are sent as UTF-8.
    value = Headers(scope=scope).get("authorization")
    return None if value is None else value.encode("latin-1").decode("utf-8", "surrogateescape")


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def _named(given: str, scope: KeyScope) -> tuple[bytes, Caller]:
    match = _NAMED.fullmatch(given)
    digest = _digest(match[2] if match else given)
    return digest, Caller(scope, match[1] if match else f"key-{digest.hex()[:8]}")
