"""One request, readable top to bottom: resolve, fit, lease, stream, record."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass, field

from loradex.core.adapter import AdapterRef, Reference
from loradex.core.mix import Mix
from loradex.core.prompt import Prompt
from loradex.core.request import GenerateRequest
from loradex.core.sampling import Sampling
from loradex.engine.base import Engine
from loradex.errors import AdapterDamaged, AdapterNotFound, InvalidRequest, LoradexError
from loradex.service.aftermath import Aftermath
from loradex.service.answer import Answer
from loradex.service.fit import fit, seeded
from loradex.service.metrics import Metrics
from loradex.service.mixing import Mixing, MixLease
from loradex.service.names import Names

__all__ = ["Answer", "Ask", "Generator"]

MAX_N = 128


@dataclass(frozen=True, slots=True)
class Ask:
    """What a client asks.

    Attributes:
        model: name of the base, a reference to an adapter or a mix of several, also with `base:` before it; None and ""
            mean the base.
        prompt: text, token ids or a conversation.
        sampling: `max_tokens` None takes what the context leaves.
        n: answers to make, 1 to 128; with a seed, answer `i` has `seed + i`.
        priority: lower is served earlier, of those who wait.
        request_id: for logs and replies; made up when empty. It need not be unique.
        key: who asks: while a canary runs, requests with one key are answered by one version. Empty: any.
        adapters: the mix, where `model` means the base.
    """

    model: str | None
    prompt: Prompt
    sampling: Sampling
    n: int = 1
    request_id: str = ""
    priority: int = 0
    key: str = ""
    adapters: Mix[Reference] = field(default_factory=Mix)

    def __post_init__(self) -> None:
        """Check `n`.

        Raises:
            InvalidRequest: it is out of range.
        """
        if not 1 <= self.n <= MAX_N:
            raise InvalidRequest(f"n is {self.n}; it must be at least 1 and at most {MAX_N}", param="n")


class Generator:
    """Begins answers."""

    def __init__(
        self,
        engine: Engine,
        names: Names,
        mixing: Mixing,
        metrics: Metrics,
        aftermath: Aftermath,
        clock: Callable[[], float],
    ) -> None:
        self._engine = engine
        self._names = names
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
        if named.members and ask.adapters.members:
            raise InvalidRequest(
                f"Both `model` and `adapters` name adapters: `{named}` and `{ask.adapters}`",
                hint="Let `model` name the base, or leave `adapters` out",
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
            tokens = self._engine.encode(ask.prompt)
            sampling = fit(ask.sampling, len(tokens), self._engine.info)
            picked, lease = await self._lease(ask, asked, picked)
        except LoradexError as error:
            self._metrics.refused(mix, error.code)
            self._aftermath.refused(mix, error.code)
            raise
        # From here to the return nothing is awaited, so the lease cannot be lost to a cancellation.
        own = uuid.uuid4().hex
        mix = asked.map(picked.__getitem__)
        return Answer(
            ask.request_id or f"req-{own}",
            str(asked) if asked.members else self._engine.info.id,
            mix,
            engine=self._engine,
            requests=[
                GenerateRequest(f"{own}-{i}", tokens, seeded(sampling, i), priority=ask.priority) for i in range(ask.n)
            ],
            lease=lease,
            metrics=self._metrics,
            clock=self._clock,
            arrived=arrived,
            shadow=self._aftermath.shadow_of(asked, mix),
            ended=self._aftermath.ended,
        )

    async def _pick(self, ask: Ask, asked: Mix[Reference], *, again: bool = False) -> dict[Reference, AdapterRef]:
        return {each: await self._names.pick(each, ask.key, again=again) for each in asked.adapters}

    async def _lease(
        self, ask: Ask, asked: Mix[Reference], picked: dict[Reference, AdapterRef]
    ) -> tuple[dict[Reference, AdapterRef], MixLease]:
        """Lease the versions that were resolved; if one was removed meanwhile, resolve once more."""
        try:
            return picked, await self._mixing.acquire(asked, picked, ask.priority)
        except (AdapterDamaged, AdapterNotFound):
            again = await self._pick(ask, asked, again=True)
            if again == picked:
                raise
            return again, await self._mixing.acquire(asked, again, ask.priority)
