"""What answers a workload: an engine, a service, or (`http_target`) any OpenAI server. One stream for each request."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from loradex.bench.workload import Request
from loradex.core.event import Delta
from loradex.core.mix import Mix
from loradex.core.request import GenerateRequest
from loradex.core.sampling import Sampling
from loradex.engine.base import Engine
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
        answer = await self._service.generate(Ask(name, request.prompt, _sampling(request)))
        try:
            async for _, event in answer.events():
                if isinstance(event, Delta):
                    yield len(event.token_ids)
        finally:
            await answer.aclose()
