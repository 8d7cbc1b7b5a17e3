"""One request, readable top to bottom: resolve, fit, lease, stream, record."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from loradex.core.adapter import AdapterRef
from loradex.core.prompt import Prompt
from loradex.core.request import GenerateRequest
from loradex.core.sampling import Sampling
from loradex.engine.base import Engine
from loradex.errors import AdapterDamaged, AdapterNotFound, InvalidRequest, LoradexError
from loradex.service.answer import Answer
from loradex.service.fit import fit, seeded
from loradex.service.lease import Lease
from loradex.service.metrics import Metrics
from loradex.service.names import Names
from loradex.service.residency import Residency

__all__ = ["Answer", "Ask", "Generator"]

MAX_N = 128


@dataclass(frozen=True, slots=True)
class Ask:
    """What a client asks.

    Attributes:
        model: name of the base or a reference to an adapter, also as `base:reference`; None and "" mean the base.
        prompt: text, token ids or a conversation.
        sampling: `max_tokens` None takes what the context leaves.
        n: answers to make, 1 to 128; with a seed, answer `i` has `seed + i`.
        priority: lower is served earlier, of those who wait.
        request_id: for logs and replies; made up when empty. It need not be unique.
        key: who asks: while a canary runs, requests with one key are answered by one version. Empty: any.
    """

    model: str | None
    prompt: Prompt
    sampling: Sampling
    n: int = 1
    request_id: str = ""
    priority: int = 0
    key: str = ""

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
        self, engine: Engine, names: Names, residency: Residency, metrics: Metrics, clock: Callable[[], float]
    ) -> None:
        self._engine = engine
        self._names = names
        self._residency = residency
        self._metrics = metrics
        self._clock = clock

    async def begin(self, ask: Ask) -> Answer:
        """Resolve, fit and lease; see `Service.generate`."""
        arrived = self._clock()
        ref: AdapterRef | None = None
        lease: Lease | None = None
        try:
            ref = await self._names.pick(ask.model, ask.key)
            tokens = self._engine.encode(ask.prompt)
            sampling = fit(ask.sampling, len(tokens), self._engine.info)
            if ref is not None:
                ref, lease = await self._lease(ask, ref)
        except LoradexError as error:
            self._metrics.refused(ref, error.code)
            raise
        # From here to the return nothing is awaited, so the lease cannot be lost to a cancellation.
        own = uuid.uuid4().hex
        reference = self._names.reference(ask.model)
        return Answer(
            ask.request_id or f"req-{own}",
            str(reference) if reference is not None else self._engine.info.id,
            ref,
            engine=self._engine,
            requests=[
                GenerateRequest(f"{own}-{i}", tokens, seeded(sampling, i), priority=ask.priority) for i in range(ask.n)
            ],
            lease=lease,
            metrics=self._metrics,
            clock=self._clock,
            arrived=arrived,
        )

    async def _lease(self, ask: Ask, ref: AdapterRef) -> tuple[AdapterRef, Lease]:
        """Lease the version that was resolved; if it was removed meanwhile, resolve once more."""
        acquire = partial(self._residency.acquire, reference=self._names.reference(ask.model), priority=ask.priority)
        try:
            return ref, await acquire(ref.digest, name=ref.name)
        except (AdapterDamaged, AdapterNotFound):
            again = await self._names.pick(ask.model, ask.key, again=True)
            if again is None or again.digest == ref.digest:
                raise
            return again, await acquire(again.digest, name=again.name)
