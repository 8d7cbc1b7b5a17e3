"""The leases of one request: on every member of its mix, or on none."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from loradex.adapters.adapter import Adapter
from loradex.core.adapter import AdapterRef, Reference
from loradex.core.mix import Mix
from loradex.errors import InvalidRequest, Overloaded
from loradex.service.lease import Lease
from loradex.service.residency import Residency


class MixLease:
    """A hold on every member of a mix until `release`; that of the base holds nothing."""

    def __init__(self, asked: Mix[Reference], leases: Mapping[Reference, Lease]) -> None:
        self._asked = asked
        self._leases = leases

    def begin(self, request: str) -> Mix[str]:
        """Return what a request runs on, for the engine, before anything is awaited; see `Lease.begin`."""
        mix = self._asked.map(lambda reference: self._leases[reference].begin(request))
        # In one order, so that requests which only name the members in another one share rows and cached blocks.
        return Mix(tuple(sorted(mix.members)))

    @property
    def moves(self) -> Sequence[AdapterRef]:
        """The versions that members of it went over to, in `immediate` replaces."""
        return [ref for lease in self._leases.values() for ref in lease.moves]

    def on_revoke(self, told: Callable[[], None]) -> None:
        """Say who is to be told when one of the members leaves before its time."""
        for lease in self._leases.values():
            lease.revoked = told

    def release(self) -> None:
        """Give the holds back. Does nothing the second time."""
        for lease in self._leases.values():
            lease.release()


@dataclass(frozen=True, slots=True)
class _Want:
    """One version to lease, and what asked for it; None where two did, for it can follow only both."""

    ref: AdapterRef
    reference: Reference | None
    priority: int


class Mixing:
    """Leases for mixes out of leases for adapters.

    Whoever holds a slot and waits for another can wait for somebody who does the same. So only one mix at a time waits
    like that: what it waits for is held by answers that wait for nothing, and end.

    Args:
        residency: gives out single leases.
        read: finds an adapter by digest.
        max_loras: slots of the engine.
        queue_seconds: longest wait for another mix.
    """

    def __init__(
        self, residency: Residency, read: Callable[[str], Awaitable[Adapter]], max_loras: int, queue_seconds: float
    ) -> None:
        self._residency = residency
        self._read = read
        self._max_loras = max_loras
        self._queue_seconds = queue_seconds
        self._gate = asyncio.Lock()

    async def acquire(
        self, asked: Mix[Reference], picked: Mapping[Reference, AdapterRef], priority: int = 0
    ) -> MixLease:
        """Return leases on the versions picked for what was asked. Cancelling it leaves nothing taken.

        Raises:
            InvalidRequest: the engine has fewer slots.
            AdapterTooLarge: all together do not fit the memory for adapters.
            LoradexError: any that `Residency.acquire` raises, of any member; then none is leased.
        """
        wants: dict[str, _Want] = {}
        for reference in asked.adapters:
            ref = picked[reference]
            wants[ref.digest] = _Want(ref, None if ref.digest in wants else reference, priority)
        leases = dict(zip(wants, await self._lease(list(wants.values())), strict=True))
        return MixLease(asked, {reference: leases[picked[reference].digest] for reference in asked.adapters})

    async def _lease(self, wants: Sequence[_Want]) -> Sequence[Lease]:
        if len(wants) > self._max_loras:
            raise InvalidRequest(
                f"The mix has {len(wants)} adapters; the engine holds {self._max_loras} at a time",
                hint="Mix fewer, or serve with a larger `--max-loras`",
                param="model",
            )
        if len(wants) == 1 or all(self._residency.grantable(want.ref.digest) for want in wants):
            return [await self._one(want) for want in wants]  # those that can be granted are, with no wait between
        # Each of them may fit, but not all: that is told now, and not when the wait for room has ended in vain.
        adapters = await asyncio.gather(*(self._read(want.ref.digest) for want in wants))
        self._residency.require(*adapters)
        try:
            async with asyncio.timeout(self._queue_seconds):
                await self._gate.acquire()
        except TimeoutError as error:
            raise Overloaded("Other mixes wait for adapter slots, which running answers hold") from error
        try:
            return await self._all(wants, adapters)
        finally:
            self._gate.release()

    async def _all(self, wants: Sequence[_Want], adapters: Sequence[Adapter]) -> Sequence[Lease]:
        """Lease all at once, so that they load side by side and wait no longer than one would."""
        tasks = [asyncio.create_task(self._one(want, adapter)) for want, adapter in zip(wants, adapters, strict=True)]
        try:
            leases = await asyncio.gather(*tasks)
        except BaseException:
            for task in tasks:
                task.add_done_callback(_give_back)
                task.cancel()
            raise
        for lease in leases:
            lease.waits = False
        return leases

    async def _one(self, want: _Want, adapter: Adapter | None = None) -> Lease:
        """Lease one; `adapter` are the files of one of several, which wait for one another."""
        lease = await self._residency.acquire(
            want.ref.digest, name=want.ref.name, reference=want.reference, adapter=adapter, priority=want.priority
        )
        lease.waits = adapter is not None
        return lease


def _give_back(task: asyncio.Task[Lease]) -> None:
    if not task.cancelled() and task.exception() is None:
        task.result().release()
