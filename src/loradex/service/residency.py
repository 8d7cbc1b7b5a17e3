"""Which adapters are in the engine, who holds them, and who waits for a slot.

All of it runs on one event loop and changes state only between awaits, so there is no lock. `_advance` looks at the
queue after every change and decides; loads and unloads are tasks of their own, so that nobody's cancellation stops
another's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

from loradex.adapters.adapter import Adapter
from loradex.core.adapter import Reference
from loradex.engine.base import Engine
from loradex.errors import EngineStopped, Overloaded
from loradex.service.lease import Entry, Follows, Lease, Move, State

RETRY_SECONDS = 0.05
"""After an unload that the engine refused: a request may need one more step to let go."""


@dataclass(frozen=True, slots=True)
class Hold:
    """A snapshot of one digest: what holds it here. `waiting` counts requests that wait for its slot or its load."""

    digest: str
    names: tuple[str, ...]
    resident: bool
    leases: int
    waiting: int
    idle_seconds: float


class Residency:
    """Leases, shared loads, evictions and drains, by digest.

    A request for resident weights gets its lease at once. Others queue, first come first served; the least recently
    used weights without a lease make room. Where every slot is leased, a request that has waited for `fair_seconds`
    closes one slot to newcomers, so that steady traffic on few adapters cannot keep the others out for ever.

    Args:
        engine: where the weights go.
        read: finds an adapter by digest.
        max_loras: slots of the engine.
        queue_seconds: longest wait for a slot; the load itself is not counted.
        fair_seconds: see above.
        clock: seconds; only used to measure.
        loaded: told the seconds of every load.
    """

    def __init__(
        self,
        engine: Engine,
        read: Callable[[str], Awaitable[Adapter]],
        *,
        max_loras: int,
        queue_seconds: float,
        fair_seconds: float,
        clock: Callable[[], float],
        loaded: Callable[[float], None],
    ) -> None:
        self._engine = engine
        self._read = read
        self.max_loras = max_loras
        self._queue_seconds = queue_seconds
        self._fair_seconds = fair_seconds
        self._clock = clock
        self._observe_load = loaded
        self._entries: dict[str, Entry] = {}
        self._waiters: list[_Waiter] = []
        self._stopped = False
        self.evictions = 0
        """Weights that made room for others, since the start."""
        self.failed_loads = 0

    async def acquire(
        self, digest: str, *, name: str = "", reference: Reference | None = None, adapter: Adapter | None = None
    ) -> Lease:
        """Return a lease on resident weights, loading them first where needed.

        Cancelling it, at any time, leaves nothing taken; a load under way goes on for others who wait for it.

        Args:
            digest: of the weights.
            name: the adapter's name, for `ps` and metrics.
            reference: what the request asked for; see `Lease`.
            adapter: its files, where the caller has them; else they are looked up by digest.

        Raises:
            Overloaded: no slot became free in time.
            AdapterNotFound, AdapterDamaged: the files are not there, or not what they were.
            EngineStopped: the service is stopping.
        """
        if self._stopped:
            raise EngineStopped("The service is stopping")
        entry = self._entries.get(digest)
        if entry is not None and entry.grantable:
            return self._grant(entry, name, reference)
        loop = asyncio.get_running_loop()
        waiter = _Waiter(digest, name, reference, adapter, loop.create_future())
        self._waiters.append(waiter)
        timers = (
            loop.call_later(self._queue_seconds, self._expire, waiter),
            loop.call_later(self._fair_seconds, self._age, waiter),
        )
        self._advance()
        try:
            return await waiter.future
        except asyncio.CancelledError:
            if waiter.granted:
                waiter.future.result().release()
            raise
        finally:
            for timer in timers:
                timer.cancel()
            if waiter in self._waiters:
                self._waiters.remove(waiter)
                self._advance()

    def retire(self, digest: str) -> None:
        """Free the weights when the last answer that holds them ends; at once where nobody does."""
        entry = self._entries.get(digest)
        if entry is not None:
            entry.retired = True
            self._drop_if_done(entry)

    def keep(self, digest: str) -> None:
        """Take `retire` back: the weights have become current again."""
        if digest in self._entries:
            self._entries[digest].retired = False

    async def move(self, old: str, new: str, follows: Follows) -> int:
        """Switch the requests that follow, and their leases, from `old` to resident `new`; return how many moved.

        Raises:
            LoradexError: the engine could not switch; every request goes on under `old`.
        """
        source, target = self._entries.get(old), self._entries.get(new)
        if source is None or target is None or not source.leases:
            return 0
        going = {request for lease in source.leases if lease.follows(follows) for request in lease.requests}
        source.moving = Move(target, follows)
        try:
            moved = await self._engine.switch(old, new, going)
        finally:
            source.moving = None
        for lease in tuple(source.leases):
            if lease.follows(follows):
                lease.move(target)
        self._drop_if_done(source)
        self._advance()
        return moved

    def known(self, digest: str) -> bool:
        """Return whether the weights take a slot: resident, or on their way in or out."""
        return digest in self._entries

    def states(self) -> dict[str, Hold]:
        """Return a snapshot of everything that is resident, on its way, or waited for."""
        waiting: dict[str, list[str]] = {}
        for waiter in self._waiters:
            waiting.setdefault(waiter.digest, []).append(waiter.name)
        found = {}
        for digest in {**self._entries, **waiting}:
            entry = self._entries.get(digest)
            names = (entry.names if entry is not None else set()) | set(waiting.get(digest, ()))
            found[digest] = Hold(
                digest=digest,
                names=tuple(sorted(names - {""})),
                resident=entry is not None and entry.state is State.RESIDENT,
                leases=len(entry.leases) if entry is not None else 0,
                waiting=len(waiting.get(digest, ())),
                idle_seconds=self._clock() - entry.used_at if entry is not None else 0.0,
            )
        return found

    async def settle(self) -> None:
        """Wait until no load or unload is under way."""
        while tasks := [entry.task for entry in self._entries.values() if entry.task is not None]:
            await asyncio.wait(tasks)
            await asyncio.sleep(0)  # lets what follows a load or unload begin

    async def stop(self) -> None:
        """Refuse those who wait and newcomers, and end loads under way."""
        self._stopped = True
        for entry in self._entries.values():
            if entry.state is State.LOADING and entry.task is not None:
                entry.task.cancel()
        self._fail(lambda waiter: True, EngineStopped("The service is stopping"))
        await self.settle()

    def _grant(self, entry: Entry, name: str, reference: Reference | None) -> Lease:
        entry.used_at = self._clock()
        entry.names.add(name)
        return Lease(entry, self._released, reference)

    def _released(self, entry: Entry) -> None:
        entry.used_at = self._clock()
        self._drop_if_done(entry)
        if self._waiters:
            self._advance()

    def _drop_if_done(self, entry: Entry) -> None:
        wanted = any(waiter.digest == entry.digest for waiter in self._waiters)
        if entry.retired and entry.idle and not wanted:
            self._unload(entry)

    def _advance(self) -> None:
        """Give what can be given: leases on resident weights, and slots, in the order of arrival."""
        blocked = self._serve_queue()
        if blocked is None:
            # Nobody waits for a slot any more, so closed ones open again for those whom they kept out.
            closed = [entry for entry in self._entries.values() if entry.closed and entry.state is State.RESIDENT]
            for entry in closed:
                entry.closed = False
            if closed:
                self._serve_queue()
        elif blocked.aged:
            self._close_one()

    def _serve_queue(self) -> _Waiter | None:
        """Walk the queue once; return the first who needs a slot that is not to be had."""
        blocked: _Waiter | None = None
        for waiter in tuple(self._waiters):
            entry = self._entries.get(waiter.digest)
            if waiter.future.done():  # cancelled, and about to leave the queue
                continue
            if entry is None:
                if blocked is None and not self._stopped and not self._load(waiter):
                    blocked = waiter
            elif entry.grantable:
                self._waiters.remove(waiter)
                waiter.future.set_result(self._grant(entry, waiter.name, waiter.reference))
        return blocked

    def _close_one(self) -> None:
        if any(entry.closed for entry in self._entries.values()):
            return
        open_ones = [entry for entry in self._entries.values() if entry.grantable and entry.moving is None]
        if open_ones:
            min(open_ones, key=lambda entry: (len(entry.leases), entry.used_at)).closed = True

    def _load(self, waiter: _Waiter) -> bool:
        """Begin to load a waiter's weights where there is, or will be, a slot."""
        victim: Entry | None = None
        if sum(not entry.claimed for entry in self._entries.values()) >= self.max_loras:
            victim = self._victim()
            if victim is None:
                return False
            if victim.state is State.RESIDENT:
                self.evictions += 1
                self._unload(victim)
            victim.claimed = True
        entry = Entry(waiter.digest, self._clock())
        entry.names.add(waiter.name)
        self._entries[waiter.digest] = entry
        entry.task = asyncio.create_task(self._bring_in(entry.digest, waiter.adapter, victim))
        entry.task.add_done_callback(partial(self._loaded, entry))
        return True

    def _victim(self) -> Entry | None:
        """Return whose slot to take: one that is being freed, else the least recently used that nobody holds."""
        now = asyncio.get_running_loop().time()
        leaving = [entry for entry in self._entries.values() if entry.state is State.UNLOADING and not entry.claimed]
        idle = [entry for entry in self._entries.values() if entry.idle and now >= entry.not_before]
        return leaving[0] if leaving else min(idle, key=lambda entry: entry.used_at, default=None)

    async def _bring_in(self, digest: str, adapter: Adapter | None, victim: Entry | None) -> None:
        if victim is not None and victim.task is not None:
            await asyncio.wait((victim.task,))
            if self._entries.get(victim.digest) is victim:
                raise _SlotKept
        started = self._clock()
        await self._engine.load(adapter if adapter is not None else await self._read(digest))
        self._observe_load(self._clock() - started)

    def _loaded(self, entry: Entry, task: asyncio.Task[None]) -> None:
        entry.task = None
        error = EngineStopped("The service is stopping") if task.cancelled() else task.exception()
        if error is None:
            entry.state = State.RESIDENT
            entry.used_at = self._clock()
        else:
            del self._entries[entry.digest]
            if not isinstance(error, _SlotKept):
                self.failed_loads += 1
                self._fail(lambda waiter: waiter.digest == entry.digest, error)
        self._advance()
        self._drop_if_done(entry)

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
        else:
            del self._entries[entry.digest]
        self._advance()

    def _retry(self, entry: Entry) -> None:
        if not self._stopped:
            self._drop_if_done(entry)
            self._advance()

    def _age(self, waiter: _Waiter) -> None:
        waiter.aged = True
        self._advance()

    def _expire(self, waiter: _Waiter) -> None:
        """End a wait that was too long, unless a load is under way for it."""
        entry = self._entries.get(waiter.digest)
        if waiter in self._waiters and (entry is None or entry.state is not State.LOADING):
            message = f"All {self.max_loras} adapter slots are held by running answers"
            error = Overloaded(message, hint="Try again later, or serve with a larger `--max-loras`")
            self._fail(lambda other: other is waiter, error)
            self._advance()

    def _fail(self, chosen: Callable[[_Waiter], bool], error: BaseException) -> None:
        for waiter in [waiter for waiter in self._waiters if chosen(waiter)]:
            self._waiters.remove(waiter)
            if not waiter.future.done():
                waiter.future.set_exception(error)


class _Waiter:
    """One request in the queue. `aged` once it has waited long enough to close a slot to newcomers."""

    __slots__ = ("adapter", "aged", "digest", "future", "name", "reference")

    def __init__(
        self,
        digest: str,
        name: str,
        reference: Reference | None,
        adapter: Adapter | None,
        future: asyncio.Future[Lease],
    ) -> None:
        self.digest = digest
        self.name = name
        self.reference = reference
        self.adapter = adapter
        self.future = future
        self.aged = False

    @property
    def granted(self) -> bool:
        return self.future.done() and not self.future.cancelled() and self.future.exception() is None


class _SlotKept(Exception):
    """The engine did not free the slot that was promised; those who wait go on waiting."""
