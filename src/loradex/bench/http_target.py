"""Any OpenAI server as what answers a workload, and its streams piece by piece."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx

from loradex.bench.workload import Request
from loradex.errors import ConfigInvalid, EngineFailed, ServerUnreachable

ANSWER_SECONDS = 600.0
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True)
class Piece:
    """One event of a streamed completion.

    Attributes:
        text: what it adds; empty in the last events.
        fingerprint: the server's `system_fingerprint`; ours names the weights.
        finish: the reason of the end, where this is it.
        counted: tokens of the whole answer, where the event says so.
    """

    text: str = ""
    fingerprint: str = ""
    finish: str = ""
    counted: int = 0


def address(url: str) -> str:
    """Return a server's address without its `/v1`.

    Raises:
        ConfigInvalid: it is none.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigInvalid(f"{url!r} is not a server address", hint="Write it like http://127.0.0.1:8000")
    return url.rstrip("/").removesuffix("/v1")


@asynccontextmanager
async def connected(url: str, key: str = "") -> AsyncIterator[httpx.AsyncClient]:
    """Yield a client with the server's address and key.

    Raises:
        ConfigInvalid: the address is none.
    """
    async with httpx.AsyncClient(
        base_url=address(url),
        headers={"Authorization": f"Bearer {key}"} if key else {},
        timeout=ANSWER_SECONDS,
        # A proxy from the environment must not stand before this machine; and no request waits for a connection.
        trust_env=urlsplit(url).hostname not in _LOOPBACK,
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=None),
    ) as client:
        yield client


async def pieces(client: httpx.AsyncClient, body: Mapping[str, Any]) -> AsyncIterator[Piece]:
    """Ask for a completion and yield its events as they come. Closing it cancels the request.

    Raises:
        ServerUnreachable: nobody answers there.
        EngineFailed: the server refused, or broke off.
    """
    streamed = {**body, "stream": True, "stream_options": {"include_usage": True}}
    try:
        async with client.stream("POST", "v1/completions", json=streamed) as reply:
            if reply.status_code != 200:
                said = (await reply.aread()).decode("utf-8", "replace")[:300]
                raise EngineFailed(f"{client.base_url} answered {reply.status_code}: {said}")
            async for line in reply.aiter_lines():
                if line.startswith("data:") and not line.endswith("[DONE]"):
                    yield _read(line)
    except httpx.TransportError as error:
        raise ServerUnreachable(f"{client.base_url} does not answer: {error!r}") from error


def _read(line: str) -> Piece:
    """Read one event.

    Raises:
        EngineFailed: it carries an error.
    """
    data = json.loads(line.removeprefix("data:"))
    if data.get("error"):
        raise EngineFailed(f"The server broke an answer off: {data['error']}")
    choice = (data.get("choices") or [{}])[0]
    counted = int((data.get("usage") or {}).get("completion_tokens", 0))
    fingerprint = data.get("system_fingerprint") or ""
    return Piece(choice.get("text") or "", fingerprint, choice.get("finish_reason") or "", counted)


def fixed(model: str, prompt: str | Sequence[int], tokens: int) -> dict[str, Any]:
    """Return the body of a greedy completion of exactly so many tokens."""
    asked = prompt if isinstance(prompt, str) else list(prompt)
    return {"model": model, "prompt": asked, "max_tokens": tokens, "temperature": 0.0, "ignore_eos": True}


class HttpTarget:
    """Any OpenAI server, through its completions route. Prompts go as token ids, so that every server gets the same.

    Args:
        client: with the server's address and key.
        base: what the server calls its base model.
        names: what it calls the adapters, by number.
    """

    def __init__(self, client: httpx.AsyncClient, base: str, names: Sequence[str]) -> None:
        self._client = client
        self._base = base
        self._names = tuple(names)

    async def stream(self, request: Request) -> AsyncIterator[int]:
        """Yield the number of new tokens, as they come.

        A chunk counts as one token; what the server counts in the end beyond that comes as a last number.

        Raises:
            ServerUnreachable: nobody answers there.
            EngineFailed: the server refused, or broke off.
        """
        model = self._names[request.adapter] if request.adapter is not None else self._base
        seen, counted = 0, 0
        async for piece in pieces(self._client, fixed(model, request.prompt, request.output)):
            counted = max(counted, piece.counted)
            if piece.text:
                seen += 1
                yield 1
        if counted > seen:
            yield counted - seen


async def model_names(client: httpx.AsyncClient) -> list[str]:
    """Return the models of a server, in its order: the base first, with every server that we know.

    Raises:
        ServerUnreachable: nobody answers there, or not in OpenAI's form.
    """
    try:
        reply = await client.get("v1/models")
        return [str(card["id"]) for card in reply.raise_for_status().json()["data"]]
    except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
        raise ServerUnreachable(f"{client.base_url} has no list of models: {error!r}") from error
