"""Requests that wait for weights: in which order, and for how long each had to."""

from __future__ import annotations

import asyncio
from bisect import insort
from collections.abc import Callable, Iterable, Iterator, Sequence

from loradex.adapters.adapter import Adapter
from loradex.core.adapter import Reference
from loradex.service.lease import Lease

PATIENCE = 8
"""Times `fair_seconds` after which a request comes before others of any priority."""


class Waiter:
    """One request in the queue.

    Attributes:
        digest, name, reference: see `Residency.acquire`.
        priority: lower comes first.
        future: gets its lease.
        aged: it has waited long enough to close held weights to newcomers.
        overdue: it has waited so long that nobody's priority counts any more.
        late: it has waited for as long as it may.
    """

    __slots__ = ("aged", "digest", "future", "late", "name", "number", "overdue", "priority", "reference", "timers")

    def __init__(
        self, digest: str, name: str, reference: Reference | None, priority: int, future: asyncio.Future[Lease]
    ) -> None:
        self.digest = digest
        self.name = name
        self.reference = reference
        self.priority = priority
        self.future = future
        self.number = 0
        self.aged = False
        self.overdue = False
        self.late = False
        self.timers: Sequence[asyncio.TimerHandle] = ()

    @property
    def granted(self) -> bool:
        """Whether it has its lease."""
        return self.future.done() and not self.future.cancelled() and self.future.exception() is None

    @property
    def order(self) -> tuple[bool, int, int]:
        """Whoever is overdue comes first; then by priority; then who came first."""
        return (not self.overdue, 0 if self.overdue else self.priority, self.number)


class Want:
    """All who wait for the same weights, in order. It stands in the queue where the first of them does.

    Attributes:
        adapter: their files, once somebody knows them.
        staged: whether they were brought nearer.
    """

    __slots__ = ("adapter", "digest", "staged", "waiters")

    def __init__(self, digest: str) -> None:
        self.digest = digest
        self.adapter: Adapter | None = None
        self.staged = False
        self.waiters: list[Waiter] = []

    @property
    def aged(self) -> bool:
        """Whether one of them has waited for long."""
        return any(waiter.aged for waiter in self.waiters)

    @property
    def pending(self) -> bool:
        """Whether one of them has not been cancelled."""
        return any(not waiter.future.done() for waiter in self.waiters)

    @property
    def order(self) -> tuple[bool, int, int]:
        """Where it stands."""
        return self.waiters[0].order


class Waiting:
    """The queue.

    Args:
        fair_seconds: after so long a waiter is `aged`, and after `PATIENCE` times that `overdue`.
        queue_seconds: after so long it is `late`.
        wake: called when one of them has become so.
    """

    def __init__(self, fair_seconds: float, queue_seconds: float, wake: Callable[[], None]) -> None:
        self._ages = {"aged": fair_seconds, "overdue": fair_seconds * PATIENCE, "late": queue_seconds}
        self._wake = wake
        self._wants: dict[str, Want] = {}
        self._order: list[Want] = []
        """Kept sorted, since thousands may wait and everything that happens looks here."""
        self._late: set[Waiter] = set()
        self._came = 0

    def __bool__(self) -> bool:
        return bool(self._wants)

    def __contains__(self, waiter: Waiter) -> bool:
        want = self._wants.get(waiter.digest)
        return want is not None and waiter in want.waiters

    def __iter__(self) -> Iterator[Waiter]:
        return (waiter for want in self._order for waiter in want.waiters)

    @property
    def wants(self) -> Sequence[Want]:
        """What is wanted, in order; a copy, so that the queue may change meanwhile."""
        return tuple(self._order)

    @property
    def late(self) -> Sequence[Waiter]:
        """Those who have waited for as long as they may."""
        return tuple(self._late)

    def want(self, digest: str) -> Want | None:
        """Return who waits for these weights."""
        return self._wants.get(digest)

    def of(self, digest: str) -> Sequence[Waiter]:
        """Return those who wait for these weights."""
        want = self._wants.get(digest)
        return tuple(want.waiters) if want is not None else ()

    def add(self, waiter: Waiter, adapter: Adapter | None = None) -> None:
        """Let one come in, with the files that it wants where it knows them."""
        loop = asyncio.get_running_loop()
        self._came += 1
        waiter.number = self._came
        waiter.timers = [loop.call_later(after, self._become, waiter, what) for what, after in self._ages.items()]
        want = self._wants.setdefault(waiter.digest, Want(waiter.digest))
        want.adapter = want.adapter or adapter
        insort(want.waiters, waiter, key=lambda other: other.order)
        if want.waiters[0] is waiter:
            self._place(want)

    def remove(self, waiter: Waiter) -> None:
        """Let one go."""
        for timer in waiter.timers:
            timer.cancel()
        self._late.discard(waiter)
        want = self._wants[waiter.digest]
        first = want.waiters[0] is waiter
        want.waiters.remove(waiter)
        if not want.waiters:
            del self._wants[waiter.digest]
            self._order.remove(want)
        elif first:
            self._place(want)

    def fail(self, waiters: Iterable[Waiter], error: BaseException) -> None:
        """Tell some that they waited in vain."""
        for waiter in tuple(waiters):
            self.remove(waiter)
            if not waiter.future.done():
                waiter.future.set_exception(error)

    def _place(self, want: Want) -> None:
        """Put it where its first waiter belongs."""
        if want in self._order:
            self._order.remove(want)
        insort(self._order, want, key=lambda other: other.order)

    def _become(self, waiter: Waiter, what: str) -> None:
        setattr(waiter, what, True)
        if waiter.late:
            self._late.add(waiter)
        if what == "overdue":
            want = self._wants[waiter.digest]
            want.waiters.sort(key=lambda other: other.order)
            self._place(want)
        self._wake()
