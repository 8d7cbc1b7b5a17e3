"""What httpx hands back, turned into values and errors; shared by both clients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import httpx

from loradex.client import wire
from loradex.errors import ServerUnreachable, Unsupported

T = TypeVar("T")

_OTHERS = "With vLLM, `run`, `adapter ls`, `add`, `rm`, `hotfix-test` and `bench` work; the rest needs `loradex serve`"


def patience(usual: httpx.Timeout, call: wire.Call[Any]) -> httpx.Timeout:
    """Return how long a call may take: longer than usual where the server was asked to wait."""
    read = None if usual.read is None else usual.read + call.seconds
    return httpx.Timeout(read, connect=usual.connect)


def body(reply: httpx.Response) -> Any:
    """Return the JSON of a reply, or its text where it is none."""
    try:
        return reply.json()
    except ValueError:
        return {"error": reply.text.strip()[:300]}


def read(url: str, call: wire.Call[T], reply: httpx.Response) -> T:
    """Return what a reply says, or raise the error that it carries."""
    if reply.is_error:
        said = body(reply)
        if reply.status_code in (404, 405) and isinstance(said, Mapping) and list(said) == ["detail"]:
            # So a web framework answers where it has no such route; what we miss has an `error`.
            raise Unsupported(f"The server at {url} has no {call.path}: it is vLLM's, or an older one", hint=_OTHERS)
        raise wire.read_error(reply.status_code, said)
    if reply.is_redirect:
        raise ServerUnreachable(f"{url} redirects to {reply.headers.get('location')}; it is not a Loradex server")
    return call.read(body(reply) if reply.content else None, reply.headers)


def unreachable(url: str, error: httpx.HTTPError) -> ServerUnreachable:
    """Return our error for a connection that failed or broke."""
    if isinstance(error, httpx.ReadTimeout):
        return ServerUnreachable(f"The server at {url} did not answer in time", hint="Try again, or wait longer")
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
        return ServerUnreachable(f"No server answers at {url}")
    return ServerUnreachable(f"The connection to {url} broke", hint="See whether it still runs: `loradex ps`")
