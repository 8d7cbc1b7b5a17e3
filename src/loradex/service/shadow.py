"""Shadows: a copy of an answered request runs on another version, whose answer is recorded and never returned.

The copy begins when the answer has ended, has the lowest priority, and makes no weights leave the engine for its own.
Where requests wait, for the batch or for weights, it is dropped, also in the middle: it delays and fails nobody.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from loradex.core.adapter import AdapterRef
from loradex.core.event import Finished
from loradex.core.mix import Mix
from loradex.core.request import GenerateRequest
from loradex.engine.base import Engine
from loradex.errors import LoradexError
from loradex.service.ask import Ask
from loradex.service.ending import closing, to_the_end
from loradex.service.journal import Journal
from loradex.service.metrics import Metrics
from loradex.service.rendering import Read, Rendering
from loradex.service.residency import Residency

log = logging.getLogger(__name__)

LOWEST = 2**62
"""Priority of a copy: whoever asks for something goes first."""

LOOK_SECONDS = 0.02
"""A copy that runs while somebody waits is dropped within this time."""

_WAITING = 32
"""Copies that may wait for their turn; further ones are dropped."""


@dataclass(frozen=True, slots=True)
class Copy:
    """An answer that was given, and the version that is to answer the same.

    Attributes:
        request_id: of the answered request.
        ref: who answered.
        shadow: who is to answer too.
        ask: what was asked.
        request: what the engine was asked: tokens and sampling, with the defaults of `ref`.
        text, reason, seconds: the answer, why it ended, and how long it took from arrival to end.
    """

    request_id: str
    ref: AdapterRef
    shadow: AdapterRef
    ask: Ask
    request: GenerateRequest
    text: str
    reason: str
    seconds: float


class Shadows:
    """Runs copies, one at a time, on one event loop."""

    def __init__(
        self,
        engine: Engine,
        rendering: Rendering,
        residency: Residency,
        read: Read,
        journal: Journal,
        metrics: Metrics,
        clock: Callable[[], float],
    ) -> None:
        self._engine = engine
        self._rendering = rendering
        self._residency = residency
        self._read = read
        self._journal = journal
        self._metrics = metrics
        self._clock = clock
        self._queue: asyncio.Queue[Copy] = asyncio.Queue(_WAITING)
        self._worker: asyncio.Task[None] | None = None

    def offer(self, copy: Copy) -> None:
        """Run a copy when there is time for it, or never."""
        try:
            self._queue.put_nowait(copy)
        except asyncio.QueueFull:
            self._metrics.shadowed(copy.shadow, "dropped")
            return
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())

    async def stop(self) -> None:
        """Drop what waits and what runs."""
        if self._worker is not None:
            self._worker.cancel()
            await asyncio.wait((self._worker,))

    async def _work(self) -> None:
        """Run what waits, then end."""
        while not self._queue.empty():
            copy = self._queue.get_nowait()
            outcome = "failed"
            try:
                outcome = await self._run(copy)
            except asyncio.CancelledError:
                outcome = "dropped"
                raise
            except LoradexError as error:
                log.warning("the shadow %s did not answer: %s", copy.shadow, error)
            finally:
                self._metrics.shadowed(copy.shadow, outcome)

    async def _run(self, copy: Copy) -> str:
        if not self._residency.known(copy.shadow.digest):
            await self._bring_in(copy.shadow)
        if self._is_busy(copy):
            return "dropped"
        answer = asyncio.create_task(self._answer(copy))
        try:
            while not answer.done():
                await asyncio.wait((answer,), timeout=LOOK_SECONDS)
                if not answer.done() and self._is_busy(copy):
                    return "dropped"
        finally:
            answer.cancel()
            await asyncio.wait((answer,))
        try:
            await to_the_end(asyncio.to_thread(self._journal.write, copy.ref.name, answer.result()))
        except OSError as error:
            log.warning("the answer of the shadow %s cannot be kept: %s", copy.shadow, error)
            return "failed"
        return "answered"

    async def _bring_in(self, shadow: AdapterRef) -> None:
        """Load weights that are not in the engine, after a restart or an unload, where nobody has to make room."""
        adapter = await self._read(shadow.digest)
        if self._residency.room.has_spare(self._engine.footprint(adapter)):
            (await self._residency.acquire(shadow.digest, name=shadow.name, adapter=adapter)).release()

    async def _answer(self, copy: Copy) -> dict[str, Any]:
        """Answer, and return what to record."""
        began = self._clock()
        own = f"shadow-{uuid.uuid4().hex}"
        request = replace(copy.request, id=own, mix=Mix.of(copy.shadow.digest), priority=LOWEST, scored_from=None)
        alike = copy.shadow.defaults == copy.ref.defaults
        if not (alike and self._rendering.is_plain(copy.shadow) and self._rendering.is_plain(copy.ref)):
            rendered = await self._rendering.render(copy.ask, Mix.of(copy.shadow))
            request = replace(request, tokens=rendered.tokens, sampling=rendered.sampling)
        text, reason = "", ""
        lease = await self._residency.acquire(copy.shadow.digest, name=copy.shadow.name)
        try:
            async with closing(self._engine.generate(request)) as events:
                async for event in events:
                    if isinstance(event, Finished):
                        reason = event.reason
                    else:
                        text += event.text
        finally:
            lease.release()
        return {
            "at": datetime.now(UTC).isoformat(),
            "request_id": copy.request_id,
            "answer": self._told(copy.ref, copy.request, copy.text, copy.reason, copy.seconds),
            "shadow": self._told(copy.shadow, request, text, reason, self._clock() - began),
            "same": text == copy.text,
        }

    def _is_busy(self, copy: Copy) -> bool:
        """Whether anybody waits, the copy itself for a place in the batch too, or its weights are not at hand."""
        with suppress(LoradexError):
            return self._engine.stats().waiting > 0 or not self._residency.grantable(copy.shadow.digest, spare=True)
        return True

    def _told(
        self, ref: AdapterRef, request: GenerateRequest, text: str, reason: str, seconds: float
    ) -> dict[str, Any]:
        prompt = self._engine.decode(request.tokens, Mix.of(ref.digest))
        said = {"text": text, "finish_reason": reason, "seconds": seconds}
        return {"adapter": str(ref), "digest": ref.digest, "prompt": prompt, **said}
