"""Requests that wait for weights: in which order, and for how long each had to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence

from loradex.adapters.adapter import Adapter
from loradex.core.adapter import Reference
from loradex.service.lease import Lease

PATIENCE = 8
"""Times `fair_seconds` after which a request comes before others of any priority."""


class Waiter:
    """One request in the queue.

    Attributes:
        digest, name, reference, adapter: see `Residency.acquire`.
        priority: lower comes first.
        future: gets its lease.
        aged: it has waited long enough to close slots to newcomers.
        overdue: it has waited so long that nobody's priority counts any more.
        late: it has waited for as long as it may.
        staged: its weights were brought nearer.
    """

    __slots__ = (
        "adapter",
        "aged",
        "digest",
        "future",
        "late",
        "name",
        "number",
        "overdue",
        "priority",
        "reference",
        "staged",
        "timers",
    )

    def __init__(
        self,
        digest: str,
        name: str,
        reference: Reference | None,
        adapter: Adapter | None,
        priority: int,
        future: asyncio.Future[Lease],
    ) -> None:
        self.digest = digest
        self.name = name
        self.reference = reference
        self.adapter = adapter
        self.priority = priority
        self.future = future
        self.number = 0
        self.aged = False
        self.overdue = False
        self.late = False
        self.staged = False
        self.timers: Sequence[asyncio.TimerHandle] = ()

    @property
    def granted(self) -> bool:
        """Whether it has its lease."""
        return self.future.done() and not self.future.cancelled() and self.future.exception() is None

    @property
    def order(self) -> tuple[bool, int, int]:
        """Whoever is overdue comes first; then by priority; then who came first."""
        return (not self.overdue, 0 if self.overdue else self.priority, self.number)


class Waiting:
    """The queue. Iterating over it goes through a copy, in order, so that it may change meanwhile.

    Args:
        fair_seconds: after so long a waiter is `aged`, and after `PATIENCE` times that `overdue`.
        queue_seconds: after so long it is `late`.
        wake: called when one of them has become so.
    """

    def __init__(self, fair_seconds: float, queue_seconds: float, wake: Callable[[], None]) -> None:
        self._ages = {"aged": fair_seconds, "overdue": fair_seconds * PATIENCE, "late": queue_seconds}
        self._wake = wake
        self._waiters: list[Waiter] = []
        self._came = 0

    def __len__(self) -> int:
        return len(self._waiters)

    def __contains__(self, waiter: Waiter) -> bool:
        return waiter in self._waiters

    def __iter__(self) -> Iterator[Waiter]:
        self._waiters.sort(key=lambda waiter: waiter.order)
        return iter(tuple(self._waiters))

    def add(self, waiter: Waiter) -> None:
        """Let one come in."""
        loop = asyncio.get_running_loop()
        self._came += 1
        waiter.number = self._came
        waiter.timers = [loop.call_later(after, self._become, waiter, what) for what, after in self._ages.items()]
        self._waiters.append(waiter)

    def remove(self, waiter: Waiter) -> None:
        """Let one go."""
        self._waiters.remove(waiter)
        for timer in waiter.timers:
            timer.cancel()

    def wants(self, digest: str) -> bool:
        """Whether anybody waits for these weights."""
        return any(waiter.digest == digest for waiter in self._waiters)

    def adapter(self, digest: str) -> Adapter | None:
        """Return the files of these weights, where one who waits for them knows them."""
        return next((each.adapter for each in self._waiters if each.digest == digest and each.adapter), None)

    def found(self, digest: str, adapter: Adapter) -> None:
        """Tell those who wait for these weights of their files."""
        for waiter in self._waiters:
            if waiter.digest == digest:
                waiter.adapter = adapter

    def fail(self, chosen: Callable[[Waiter], bool], error: BaseException) -> None:
        """Tell some of them that they waited in vain."""
        for waiter in [waiter for waiter in self._waiters if chosen(waiter)]:
            self.remove(waiter)
            if not waiter.future.done():
                waiter.future.set_exception(error)

    def _become(self, waiter: Waiter, what: str) -> None:
        setattr(waiter, what, True)
        self._wake()
