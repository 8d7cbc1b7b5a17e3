"""What answers a workload: an engine, a service, or any OpenAI server. One stream of token counts for each request."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from typing import Protocol

import httpx

from loradex.bench.workload import Request
from loradex.core.event import Delta
from loradex.core.mix import Mix
from loradex.core.request import GenerateRequest
from loradex.core.sampling import Sampling
from loradex.engine.base import Engine
from loradex.errors import EngineFailed, ServerUnreachable
from loradex.service.generate import Ask
from loradex.service.service import Service


class Target(Protocol):
    """Answers requests."""

    def stream(self, request: Request) -> AsyncIterator[int]:
        """Yield the number of new tokens, as they come. Closing it cancels the request."""
        ...


def _sampling(request: Request) -> Sampling:
    return Sampling(temperature=0.0, max_tokens=request.output, ignore_eos=True)


class EngineTarget:
    """An engine in this process, without names or leases: the adapters are resident already.

    Args:
        engine: started.
        digests: of the adapters, by number.
    """

    def __init__(self, engine: Engine, digests: Sequence[str]) -> None:
        self._engine = engine
        self._digests = tuple(digests)

    async def stream(self, request: Request) -> AsyncIterator[int]:
        """Yield the number of new tokens, as they come."""
        digest = self._digests[request.adapter] if request.adapter is not None else None
        asked = GenerateRequest(str(request.index), request.tokens, _sampling(request), Mix.of(digest))
        async for event in self._engine.generate(asked):
            if isinstance(event, Delta):
                yield len(event.token_ids)


class ServiceTarget:
    """A service in this process: names are resolved, and adapters loaded when they are asked for.

    Args:
        service: started.
        names: of the adapters, by number.
    """

    def __init__(self, service: Service, names: Sequence[str]) -> None:
        self._service = service
        self._names = tuple(names)

    async def stream(self, request: Request) -> AsyncIterator[int]:
        """Yield the number of new tokens, as they come."""
        name = self._names[request.adapter] if request.adapter is not None else None
        answer = await self._service.generate(Ask(name, request.tokens, _sampling(request)))
        try:
            async for _, event in answer.events():
                if isinstance(event, Delta):
                    yield len(event.token_ids)
        finally:
            await answer.aclose()


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
        body = {
            "model": self._names[request.adapter] if request.adapter is not None else self._base,
            "prompt": list(request.tokens),
            "max_tokens": request.output,
            "temperature": 0.0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        seen, counted = 0, 0
        try:
            async with self._client.stream("POST", "v1/completions", json=body) as reply:
                if reply.status_code != 200:
                    said = (await reply.aread()).decode("utf-8", "replace")[:300]
                    raise EngineFailed(f"{self._client.base_url} answered {reply.status_code}: {said}")
                async for line in reply.aiter_lines():
                    new, usage = _read_line(line)
                    counted = max(counted, usage)
                    if new:
                        seen += 1
                        yield 1
        except httpx.TransportError as error:
            raise ServerUnreachable(f"{self._client.base_url} does not answer: {error!r}") from error
        if counted > seen:
            yield counted - seen


def _read_line(line: str) -> tuple[bool, int]:
    """Return whether a line of the stream has a piece of the answer, and how many tokens it says there are in all.

    Raises:
        EngineFailed: it carries an error.
    """
    if not line.startswith("data:") or line.endswith("[DONE]"):
        return False, 0
    data = json.loads(line.removeprefix("data:"))
    if data.get("error"):
        raise EngineFailed(f"The server broke an answer off: {data['error']}")
    choices = data.get("choices") or [{}]
    usage = data.get("usage") or {}
    return bool(choices[0].get("text")), int(usage.get("completion_tokens", 0))


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
