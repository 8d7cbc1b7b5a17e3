"""What follows from how a request ended: a version that fails is rolled back, a copy goes to a shadow."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from loradex.core import canary
from loradex.core.adapter import AdapterRef, Reference
from loradex.core.mix import Mix
from loradex.errors import AdapterNotFound, Conflict, LoradexError
from loradex.service.adapters import Adapters
from loradex.service.answer import Answer
from loradex.service.metrics import Metrics
from loradex.service.names import Names
from loradex.service.rollout import Rollout
from loradex.service.shadow import Copy, Shadows
from loradex.service.trial import Trials, Verdict

log = logging.getLogger(__name__)

ACTOR = "loradex"
"""Who rolls back, in the history."""


class Aftermath:
    """Told how every request ends. Nothing that it does is waited for."""

    def __init__(
        self,
        names: Names,
        adapters: Adapters,
        rollout: Rollout,
        trials: Trials,
        shadows: Shadows,
        metrics: Metrics,
        clock: Callable[[], float],
    ) -> None:
        self._names = names
        self._adapters = adapters
        self._rollout = rollout
        self._trials = trials
        self._shadows = shadows
        self._metrics = metrics
        self._clock = clock
        self._count = itertools.count()
        self._tasks: set[asyncio.Task[None]] = set()

    def shadow_of(self, asked: Mix[Reference], mix: Mix[AdapterRef]) -> AdapterRef | None:
        """Return the version that is to get a copy of a request, by what it asked for and who answers."""
        if len(asked.members) != 1:
            return None
        meaning = self._names.known(asked.adapters[0])
        if meaning is None or meaning.shadow is None:
            return None
        ref = meaning.refs[meaning.shadow.version]
        if ref in mix or 100 * canary.spread(next(self._count)) >= meaning.shadow.percent:
            return None
        return ref

    def refused(self, mix: Mix[AdapterRef] | None, code: str) -> None:
        """Take note of a request that got no answer; `mix` is None where nothing was resolved."""
        if mix is not None:
            self._observe(mix, code)

    def ended(self, answer: Answer) -> None:
        """Take note of an answer that has ended."""
        self._observe(answer.spoken[-1], answer.outcome)
        if answer.shadow is not None and answer.outcome in ("stop", "length") and answer.spoken == (answer.mix,):
            copy = Copy(
                request_id=answer.request_id,
                ref=answer.mix.adapters[0],
                shadow=answer.shadow,
                ask=answer.ask,
                request=answer.requests[0],
                text=answer.text,
                reason=answer.outcome,
                seconds=answer.seconds,
            )
            self._shadows.offer(copy)

    async def stop(self) -> None:
        """Drop what is under way."""
        await self._shadows.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _observe(self, mix: Mix[AdapterRef], outcome: str) -> None:
        if len(mix.members) != 1:  # of several, nobody can tell which one failed
            return
        ref = mix.adapters[0]
        meaning = self._names.known(Reference(ref.name))
        tried = meaning is not None and ref.version in meaning.shares and ref != meaning.ref
        verdict = self._trials.observe(ref, outcome, self._clock(), canary=tried)
        if verdict is not None:
            self._begin(self._roll_back(verdict))

    async def _roll_back(self, verdict: Verdict) -> None:
        ref = verdict.ref
        try:
            meaning = await self._names.meaning(Reference(ref.name), again=True)
            if ref.version in meaning.shares and ref != meaning.ref:
                given = {"actor": ACTOR, "action": "rollback", "note": str(verdict)}
                await self._rollout.end_canary(ref.name, ref.version, **given)
            else:
                await self._adapters.rollback(ref.name, actor=ACTOR, note=str(verdict), of=ref)
        except (AdapterNotFound, Conflict) as error:
            log.warning("%s is not rolled back, though %s: %s", ref, verdict, error.message)
        except LoradexError as error:
            log.error("%s could not be rolled back, though %s: %s", ref, verdict, error.message)
        else:
            log.error("%s was rolled back: %s", ref, verdict)
            self._metrics.rolled_back(ref)

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
