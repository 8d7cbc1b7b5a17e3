"""An answer under way: `n` requests of the engine, one stream, one hold on the weights."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import NoReturn

from loradex.core.adapter import AdapterRef
from loradex.core.event import Event, Finished
from loradex.core.mix import Mix
from loradex.core.request import GenerateRequest
from loradex.engine.base import Engine
from loradex.errors import AdapterUnloaded
from loradex.service.ask import Ask
from loradex.service.ending import closing
from loradex.service.metrics import Metrics
from loradex.service.mixing import MixLease
from loradex.service.routing import Routed

_Item = tuple[int, Event | asyncio.Task[None]]


class Answer:
    """An answer under way. It holds a lease until `events` has ended or `aclose` was called: always do one of them.

    Attributes:
        ask: what was asked.
        request_id: as asked, or made up.
        model: the name that answers, as asked: `medical@prod`; for the base its served name.
        mix: the pinned versions that begin to answer; none for the base.
        prompt_tokens: the prompt's token ids.
        requests: what the engine is asked, one for each answer.
        shadow: the version that is to get a copy of the request, None for none.
        text: of the first answer, as far as it has come, where there is a shadow.
        outcome: how it ended: a reason, or the code of an error; `abort` as long as it has not.
        seconds: from arrival to the end; 0 before.
        routed: why the prompt got this adapter, where it chose.
    """

    def __init__(
        self,
        ask: Ask,
        request_id: str,
        model: str,
        mix: Mix[AdapterRef],
        *,
        engine: Engine,
        requests: Sequence[GenerateRequest],
        lease: MixLease,
        metrics: Metrics,
        clock: Callable[[], float],
        arrived: float,
        shadow: AdapterRef | None,
        ended: Callable[[Answer], None],
    ) -> None:
        self.ask = ask
        self.request_id = request_id
        self.model = model
        self.mix = mix
        self.prompt_tokens = requests[0].tokens
        self._engine = engine
        self.requests = tuple(requests)
        self.shadow = shadow
        self.text = ""
        self.outcome = "abort"
        self.seconds = 0.0
        self.routed: Routed | None = None
        self._ended = ended
        self._lease = lease
        self._unloaded: AdapterUnloaded | None = None
        lease.on_revoke(self._revoked)
        self._metrics = metrics
        self._clock = clock
        self._arrived = arrived
        self._said: dict[int, float] = {}
        self._spoken: dict[Mix[str], Mix[AdapterRef]] = {}
        self._output = 0
        self._closed = False
        self._pumps: list[asyncio.Task[None]] = []
        self._queue: asyncio.Queue[_Item] = asyncio.Queue()
        # A reader that is slow holds the engine's pieces back here, two for each answer, not in a growing queue.
        self._room = asyncio.Semaphore(2 * len(requests))

    async def events(self) -> AsyncIterator[tuple[int, Event]]:
        """Yield events of all `n` answers, each with the index of its answer, as they come. Call it once.

        The engine begins to work at the first one. Closed from another task, it ends early.

        Raises:
            EngineFailed: the engine broke on this request.
            EngineStopped: the engine is not running.
            AdapterUnloaded: an adapter was unloaded by force.
        """
        if self._pumps or self._closed:
            raise RuntimeError("An answer is read once, before it is closed")
        if self._unloaded is not None:
            await self._end_unloaded(self._unloaded)
        for index in range(len(self.requests)):
            pump = asyncio.create_task(self._pump(index))
            self._pumps.append(pump)
            pump.add_done_callback(partial(self._pump_ended, index))
        try:
            left = len(self._pumps)
            while left:
                index, item = await self._queue.get()
                if not isinstance(item, asyncio.Task):
                    self._room.release()
                    self._record(index, item)
                    yield index, item
                    continue
                left -= 1
                if item.cancelled():
                    if self._unloaded is not None:
                        await self._end_unloaded(self._unloaded)
                    return
                error = item.exception()
                if error is not None:
                    self.outcome = getattr(error, "code", "internal_error")
                    raise error
        finally:
            await self.aclose()

    async def aclose(self) -> None:
        """Cancel what still runs and give the lease back. Does nothing the second time; safe from any task."""
        if not self._closed:
            self._closed = True
            self.seconds = self._clock() - self._arrived
            self._metrics.ended(self.mix, self.outcome, len(self.prompt_tokens), self._output, self.seconds)
            self._ended(self)
            for pump in self._pumps:
                pump.cancel()
            self._release_if_ended()
        if running := [pump for pump in self._pumps if not pump.done()]:
            await asyncio.wait(running)

    @property
    def prompt(self) -> str:
        """The prompt as text, special tokens included."""
        return self._engine.decode(self.prompt_tokens, self.mix.map(lambda ref: ref.digest))

    @property
    def first(self) -> str:
        """What the prompt's first token says alone."""
        return self._engine.decode(self.prompt_tokens[:1], self.mix.map(lambda ref: ref.digest)).replace("\ufffd", "")

    @property
    def spoken(self) -> Sequence[Mix[AdapterRef]]:
        """The mixes that worked on it so far, in order: after `immediate` replaces more than one."""
        return tuple(self._spoken.values()) or (self.mix,)

    def _revoked(self) -> None:
        """Stop at once: an adapter leaves, whoever uses it."""
        if not self._closed:
            self._unloaded = AdapterUnloaded(f"`{self.model}` was unloaded by force while it answered")
            for pump in self._pumps:
                pump.cancel()
            if not self._pumps:
                self._lease.release()

    async def _end_unloaded(self, error: AdapterUnloaded) -> NoReturn:
        self.outcome = error.code
        await self.aclose()
        raise error

    async def _pump(self, index: int) -> None:
        # Nothing is awaited between `begin` and the engine's taking the request, so no switch comes in between. The
        # pumps of one answer take their first step one directly after the other, so all of them begin alike.
        mix = self._lease.begin(self.requests[index].id)
        self._spoken.setdefault(mix, self._named(mix))
        request = replace(self.requests[index], mix=mix)
        async with closing(self._engine.generate(request)) as events:
            async for event in events:
                await self._room.acquire()
                self._queue.put_nowait((index, event))

    def _pump_ended(self, index: int, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            task.exception()  # seen, even if nobody reads the queue any more
        self._queue.put_nowait((index, task))
        self._release_if_ended()

    def _release_if_ended(self) -> None:
        """Give the lease back when the engine works on none of the requests: not before, whoever was cancelled."""
        begun_or_never_will = self._pumps or self._closed
        if begun_or_never_will and all(pump.done() for pump in self._pumps):
            self._lease.release()

    def _record(self, index: int, event: Event) -> None:
        now = self._clock()
        if isinstance(event, Finished):
            self.outcome = event.reason
            self._metrics.finished(event.reason)
            return
        self._output += len(event.token_ids)
        if event.mix not in self._spoken:
            self._spoken[event.mix] = self._named(event.mix)
        if self.shadow is not None and index == 0:
            self.text += event.text
        if index in self._said:
            self._metrics.next_token(self.mix, now - self._said[index])
        else:
            self._metrics.first_token(self.mix, now - self._arrived)
        self._said[index] = now

    def _named(self, mix: Mix[str]) -> Mix[AdapterRef]:
        """Return the versions that weights of the engine are."""
        own = {ref.digest: ref for ref in self.mix.adapters}
        if own.keys() == set(mix.adapters):
            return self.mix  # in the order in which they were asked for
        return mix.map({ref.digest: ref for ref in (*own.values(), *self._lease.moves)}.__getitem__)
