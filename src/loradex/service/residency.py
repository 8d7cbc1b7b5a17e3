"""Which adapters are in the engine, who holds them, and who waits for room.

All of it runs on one event loop and changes state only between awaits, so there is no lock. `_advance` looks at the
queue after every change and decides; loads and unloads are tasks of their own, so that nobody's cancellation stops
another's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Container, Sequence
from functools import partial
from typing import Any

from loradex.adapters.adapter import Adapter
from loradex.core.adapter import AdapterRef, Reference
from loradex.engine.base import Engine
from loradex.errors import AdapterTooLarge, EngineStopped
from loradex.service.budget import Budget
from loradex.service.hold import Hold, snapshot
from loradex.service.host import Host
from loradex.service.idle import Idle
from loradex.service.lease import Entry, Follows, Lease, State
from loradex.service.reading import Reading
from loradex.service.room import Room, RoomKept
from loradex.service.switch import switch
from loradex.service.usage import Ledger
from loradex.service.waiting import Waiter, Waiting, Want

RETRY_SECONDS = 0.05
"""After an unload that the engine refused: a request may need one more step to let go."""

AHEAD = 4
"""Of those who wait for room, how many have their weights staged meanwhile."""


class Residency:
    """Leases, shared loads, evictions and drains, by digest.

    A request for resident weights gets its lease at once. Others queue, by priority and then first come first served;
    of the weights that nobody holds, those make room whose loss costs least. Where that is not enough, a request that
    has waited for `fair_seconds` closes so many held ones to newcomers that it will be, so that steady traffic on few
    adapters cannot keep the others out for ever; until then, who comes later and needs less may go first.

    Args:
        engine: where the weights go.
        read: finds an adapter by digest.
        budget: what the engine may hold.
        host_memory: bytes of copies in host memory, where the engine has a host tier; None for no limit.
        queue_seconds: longest wait for room; the load itself is not counted.
        fair_seconds: see above.
        idle_seconds: weights that nobody held for so long leave; None lets them stay.
        pinned: digests that neither make room nor leave.
        clock: seconds; only used to measure.
        loaded: told the seconds of every load.
    """

    def __init__(
        self,
        engine: Engine,
        read: Callable[[str], Awaitable[Adapter]],
        *,
        budget: Budget,
        host_memory: int | None = None,
        queue_seconds: float,
        fair_seconds: float,
        idle_seconds: float | None = None,
        pinned: Container[str] = (),
        clock: Callable[[], float],
        loaded: Callable[[float], None],
    ) -> None:
        self._engine = engine
        self._idle = Idle(idle_seconds, self._may_lapse, self._lapse)
        self._pinned = pinned
        self._clock = clock
        self._observe_load = loaded
        self._entries: dict[str, Entry] = {}
        self._waiting = Waiting(fair_seconds, queue_seconds, self._advance)
        self._reading = Reading(read, self._was_read)
        self._stopped = False
        self.ledger = Ledger()
        self.room = Room(budget, self._entries, pinned, self.ledger)
        self.host = Host(engine, host_memory, self.ledger, pinned)
        self.evictions = 0
        """Weights that made room for others, since the start."""
        self.expiries = 0
        """Weights that left after `idle_seconds`, since the start."""
        self.failed_loads = 0

    async def acquire(
        self,
        digest: str,
        *,
        name: str = "",
        reference: Reference | None = None,
        adapter: Adapter | None = None,
        priority: int = 0,
    ) -> Lease:
        """Return a lease on resident weights, loading them first where needed.

        Cancelling it, at any time, leaves nothing taken; a load under way goes on for others who wait for it.

        Args:
            digest: of the weights.
            name: the adapter's name, for `ps` and metrics.
            reference: what the request asked for; see `Lease`.
            adapter: its files, where the caller has them; else they are looked up by digest.
            priority: lower comes first of those who wait.

        Raises:
            Overloaded: there was no room in time.
            AdapterTooLarge: there can be none, with all others gone that are not pinned.
            AdapterNotFound, AdapterDamaged: the files are not there, or not what they were.
            EngineStopped: the service is stopping.
        """
        if self._stopped:
            raise EngineStopped("The service is stopping")
        if (entry := self._entries.get(digest)) is not None and entry.grantable:
            self.ledger.leased(digest, hit=True)
            return self._grant(entry, name, reference, hit=True)
        future: asyncio.Future[Lease] = asyncio.get_running_loop().create_future()
        waiter = Waiter(digest, name, reference, priority, future)
        self._waiting.add(waiter, adapter)
        self.ledger.leased(digest, hit=False)
        self._advance()
        try:
            return await waiter.future
        except asyncio.CancelledError:
            if waiter.granted:
                waiter.future.result().release()
            raise
        finally:
            if waiter in self._waiting:
                self._waiting.remove(waiter)
                self._advance()
            if (left := self._entries.get(digest)) is not None:
                self._rest(left)  # it may be wanted no more

    def require(self, *adapters: Adapter) -> None:
        """Check that adapters can be resident at the same time.

        Raises:
            AdapterTooLarge: they do not fit, with all others gone that are not pinned.
        """
        self.room.require({adapter.digest: self._engine.footprint(adapter) for adapter in adapters})

    def retire(self, digest: str, *, leaving: bool = False) -> Entry | None:
        """Free the weights when the last answer that holds them ends, and return what takes room until then.

        Until then they may be leased anew; with `leaving`, whoever asks for them waits until they are loaded again.
        """
        if (entry := self._entries.get(digest)) is not None:
            entry.retired, entry.leaving = True, leaving or entry.leaving
            self._rest(entry)
        else:
            self.host.drop(digest)
        return entry

    def keep(self, digest: str) -> None:
        """Take `retire` back: the weights have become current again."""
        if digest in self._entries:
            self._entries[digest].retired = False

    async def move(self, old: str, new: AdapterRef, follows: Follows) -> int:
        """Switch the requests that follow, and their leases, from `old` to resident `new`; return how many moved.

        Raises:
            LoradexError: the engine could not switch; every request goes on under `old`.
        """
        source, target = self._entries.get(old), self._entries.get(new.digest)
        if source is None or target is None or not source.leases:
            return 0
        moved = await switch(self._engine, source, target, new, follows)
        self._rest(source)
        self._advance()
        return moved

    def grantable(self, digest: str, *, spare: bool = False) -> bool:
        """Return whether `acquire` would return at once; with `spare`, only while nobody waits for anything."""
        entry = self._entries.get(digest)
        return entry is not None and entry.grantable and not self._stopped and not (spare and self._waiting)

    def known(self, digest: str) -> bool:
        """Return whether the weights take a slot: resident, or on their way in or out."""
        return digest in self._entries

    def states(self) -> dict[str, Hold]:
        """Return a snapshot of everything that is resident, on its way, or waited for."""
        return snapshot(self._entries, self._waiting, self._pinned, self._clock())

    def unpinned(self, digest: str) -> None:
        """Take note that weights are not pinned any more."""
        if (entry := self._entries.get(digest)) is not None:
            self._rest(entry)
        self._advance()

    async def settle(self) -> None:
        """Wait until no read, load or unload is under way."""
        while tasks := self._under_way_tasks():
            await asyncio.wait(tasks)
            await asyncio.sleep(0)  # lets what follows a load or unload begin

    async def stop(self) -> None:
        """Refuse those who wait and newcomers, and end loads under way."""
        self._stopped = True
        for entry in self._entries.values():
            if entry.state is State.LOADING and entry.task is not None:
                entry.task.cancel()
        self._waiting.fail(self._waiting, EngineStopped("The service is stopping"))
        await self.settle()

    def _grant(self, entry: Entry, name: str, reference: Reference | None, *, hit: bool) -> Lease:
        entry.used_at = self._clock()
        entry.names.add(name)
        return Lease(entry, self._released, reference, hit=hit)

    def _released(self, entry: Entry) -> None:
        entry.used_at = self._clock()
        self._rest(entry)
        if self._waiting:
            self._advance()

    def _rest(self, entry: Entry) -> None:
        """Free an entry that is wanted no more, or let it go when it has been idle for long."""
        if not entry.idle or (self._waiting.want(entry.digest) is not None and not entry.leaving):
            return
        if entry.retired or entry.leaving:
            self.host.drop(entry.digest)
            self._unload(entry)
        else:
            self._idle.rest(entry)

    def _may_lapse(self, entry: Entry) -> bool:
        here = self._entries.get(entry.digest) is entry
        return here and entry.idle and not self.room.stays(entry) and not self._stopped

    def _lapse(self, entry: Entry) -> None:
        self.expiries += 1
        self.host.drop(entry.digest)
        self._unload(entry)

    def _advance(self) -> None:
        """Give room where it can be given, in order."""
        blocked = self._serve_queue()
        if self._refuse_late():
            blocked = self._serve_queue()
        if blocked is not None and blocked.aged:
            for entry in self.room.to_close(self._size(blocked)):
                entry.closed = True
            return
        # Nobody has waited too long, so closed ones open again for those whom they kept out.
        for entry in [entry for entry in self._entries.values() if entry.closed]:
            entry.closed = False
            self._serve(entry)

    def _serve(self, entry: Entry) -> None:
        """Give leases to those who wait for weights that are there."""
        for waiter in self._waiting.of(entry.digest) if entry.grantable else ():
            if not waiter.future.done():  # else it was cancelled, and is about to leave the queue
                self._waiting.remove(waiter)
                waiter.future.set_result(self._grant(entry, waiter.name, waiter.reference, hit=False))

    def _serve_queue(self) -> Want | None:
        """Begin the loads for which there is room; return the first for which there is none.

        Behind that, a few more are looked at: they may need less, and what they need is brought nearer meanwhile.
        """
        blocked: Want | None = None
        beyond: int | None = None
        """Of so many bytes, and more, there is no room."""
        look = AHEAD + self.room.slots
        for want in self._waiting.wants:
            if self._stopped or look <= 0 or (blocked is not None and blocked.aged):
                break
            if want.digest in self._entries or not want.pending:
                continue
            if want.adapter is None:
                self._reading.begin(want.digest)
                look -= 1
                continue
            size = self._size(want)
            if (beyond is None or size < beyond) and self._load(want, want.adapter):
                continue
            blocked, beyond = blocked or want, min(size, beyond or size)
            if not want.staged:
                want.staged = True
                self.host.stage(want.adapter)
            look -= 1
        return blocked

    def _was_read(self, digest: str, found: Adapter | BaseException) -> None:
        want = self._waiting.want(digest)
        if isinstance(found, BaseException):
            self._fail_load(digest, found)
        elif want is not None:
            want.adapter = found
        self._advance()

    def _size(self, want: Want) -> int:
        return self._engine.footprint(want.adapter) if want.adapter is not None else 0

    def _load(self, want: Want, adapter: Adapter) -> bool:
        """Begin to load weights where there is, or will be, room."""
        try:
            self.require(adapter)
        except AdapterTooLarge as error:
            self._waiting.fail(want.waiters, error)
            return True
        victims = self.room.victims(self._size(want), asyncio.get_running_loop().time())
        if victims is None:
            return False
        for victim in victims:
            if victim.state is State.RESIDENT:
                self.evictions += 1
                self.ledger.evicted(victim.digest)
                self._unload(victim)
            victim.claimed = True
        entry = Entry(want.digest, self._size(want), self._clock())
        entry.names.update(waiter.name for waiter in want.waiters)
        self._entries[want.digest] = entry
        entry.task = asyncio.create_task(self._bring_in(entry, adapter, victims))
        entry.task.add_done_callback(partial(self._loaded, entry))
        return True

    async def _bring_in(self, entry: Entry, adapter: Adapter, victims: Sequence[Entry]) -> None:
        if leaving := [victim.task for victim in victims if victim.task is not None]:
            await asyncio.wait(leaving)
        if any(self._entries.get(victim.digest) is victim for victim in victims):
            raise RoomKept
        started = self._clock()
        if self._engine.host_tier and (staging := self.host.stage(adapter)) is not None:
            await asyncio.wait((staging,))
        report = await self._engine.load(adapter)
        entry.bytes = report.bytes or entry.bytes
        seconds = self._clock() - started
        self.ledger.loaded(entry.digest, seconds, entry.bytes)
        self._observe_load(seconds)

    def _loaded(self, entry: Entry, task: asyncio.Task[None]) -> None:
        entry.task = None
        error = EngineStopped("The service is stopping") if task.cancelled() else task.exception()
        if error is None:
            entry.state = State.RESIDENT
            entry.used_at = self._clock()
            self._serve(entry)
        else:
            self._forget(entry)
            if not isinstance(error, RoomKept):
                self._fail_load(entry.digest, error)
        self._advance()
        self._rest(entry)

    def _fail_load(self, digest: str, error: BaseException) -> None:
        self.failed_loads += 1
        self._waiting.fail(self._waiting.of(digest), error)

    def _unload(self, entry: Entry) -> None:
        entry.state = State.UNLOADING
        entry.task = asyncio.create_task(self._engine.unload(entry.digest))
        entry.task.add_done_callback(partial(self._unloaded, entry))

    def _unloaded(self, entry: Entry, task: asyncio.Task[None]) -> None:
        entry.task = None
        if task.cancelled() or task.exception() is not None:
            # Still in the engine, so still ours: usable, and tried again a little later.
            loop = asyncio.get_running_loop()
            entry.state = State.RESIDENT
            entry.claimed = False
            entry.not_before = loop.time() + RETRY_SECONDS
            loop.call_later(RETRY_SECONDS, self._retry, entry)
            self._serve(entry)
        else:
            self._forget(entry)
        self._advance()

    def _forget(self, entry: Entry) -> None:
        del self._entries[entry.digest]
        entry.gone.set()

    def _retry(self, entry: Entry) -> None:
        if not self._stopped:
            self._rest(entry)
            self._advance()

    def _refuse_late(self) -> bool:
        """End waits that were too long; return whether there were any."""
        late = [waiter for waiter in self._waiting.late if not self._under_way(waiter.digest)]
        for waiter in late:
            want = self._waiting.want(waiter.digest)
            self._waiting.fail((waiter,), self.room.refusal(self._size(want) if want is not None else 0))
        return bool(late)

    def _under_way_tasks(self) -> list[asyncio.Future[Any]]:
        moving = [entry.task for entry in self._entries.values() if entry.task is not None]
        return [*self._reading.tasks, *self.host.tasks, *moving]

    def _under_way(self, digest: str) -> bool:
        """Whether weights are being read or loaded."""
        entry = self._entries.get(digest)
        return digest in self._reading or (entry is not None and entry.state is State.LOADING)
