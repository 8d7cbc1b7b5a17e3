"""One request, readable top to bottom: resolve, fit, lease, stream, record."""

from __future__ import annotations

import uuid
from collections.abc import Callable

from loradex.core.adapter import AdapterRef, Reference
from loradex.core.mix import Mix
from loradex.core.request import GenerateRequest
from loradex.engine.base import Engine
from loradex.errors import AdapterDamaged, AdapterNotFound, InvalidRequest, LoradexError
from loradex.service.aftermath import Aftermath
from loradex.service.answer import Answer
from loradex.service.ask import Ask
from loradex.service.fit import seeded
from loradex.service.metrics import Metrics
from loradex.service.mixing import Mixing
from loradex.service.names import Names
from loradex.service.rendering import Rendered, Rendering

__all__ = ["Answer", "Ask", "Generator"]


class Generator:
    """Begins answers."""

    def __init__(
        self,
        engine: Engine,
        names: Names,
        rendering: Rendering,
        mixing: Mixing,
        metrics: Metrics,
        aftermath: Aftermath,
        clock: Callable[[], float],
    ) -> None:
        self._engine = engine
        self._names = names
        self._rendering = rendering
        self._mixing = mixing
        self._metrics = metrics
        self._aftermath = aftermath
        self._clock = clock

    def asked(self, ask: Ask) -> Mix[Reference]:
        """Return the mix that a request names, in one way or the other.

        Raises:
            InvalidRequest: it names adapters in both ways, or its mix is none.
            ModelNotFound: `model` follows no form.
        """
        named = self._names.asked(ask.model)
        if named.members and ask.adapters.members and named != ask.adapters:
            raise InvalidRequest(
                f"Both `model` and `adapters` name adapters: `{named}` and `{ask.adapters}`",
                hint="Let `model` name the base, or name adapters in `model` alone",
                param="adapters",
            )
        return named if named.members else ask.adapters

    async def begin(self, ask: Ask) -> Answer:
        """Resolve, fit and lease; see `Service.generate`."""
        arrived = self._clock()
        mix: Mix[AdapterRef] | None = None
        try:
            asked = self.asked(ask)
            picked = await self._pick(ask, asked)
            mix = asked.map(picked.__getitem__)
            try:
                rendered = await self._rendering.render(ask, mix)
                lease = await self._mixing.acquire(asked, picked, ask.priority)
            except (AdapterDamaged, AdapterNotFound):  # a version was removed meanwhile: resolve once more
                again = await self._pick(ask, asked, again=True)
                if again == picked:
                    raise
                mix = asked.map(again.__getitem__)
                rendered = await self._rendering.render(ask, mix)
                lease = await self._mixing.acquire(asked, again, ask.priority)
        except LoradexError as error:
            self._metrics.refused(mix, error.code)
            self._aftermath.refused(mix, error.code)
            raise
        # From here to the return nothing is awaited, so the lease cannot be lost to a cancellation.
        own = uuid.uuid4().hex
        return Answer(
            ask,
            ask.request_id or f"req-{own}",
            str(asked) if asked.members else self._engine.info.id,
            mix,
            engine=self._engine,
            requests=[_request(f"{own}-{index}", ask, rendered, index) for index in range(ask.n)],
            lease=lease,
            metrics=self._metrics,
            clock=self._clock,
            arrived=arrived,
            shadow=self._aftermath.shadow_of(asked, mix),
            ended=self._aftermath.ended,
        )

    async def _pick(self, ask: Ask, asked: Mix[Reference], *, again: bool = False) -> dict[Reference, AdapterRef]:
        return {each: await self._names.pick(each, ask.key, again=again) for each in asked.adapters}


def _request(own: str, ask: Ask, rendered: Rendered, index: int) -> GenerateRequest:
    return GenerateRequest(
        own,
        rendered.tokens,
        seeded(rendered.sampling, index),
        priority=ask.priority,
        scored_from=rendered.scored_from,
        embedded=ask.embedded,
    )
