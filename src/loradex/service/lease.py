"""A request's hold on one digest: weights with leases are never freed or overwritten."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto

from loradex.core.adapter import AdapterRef, Reference


class State(Enum):
    """Where weights are on their way into or out of the engine."""

    LOADING = auto()
    RESIDENT = auto()
    UNLOADING = auto()


class Entry:
    """One digest that takes room in the engine.

    Attributes:
        bytes: what it takes there, by the engine's estimate until it is loaded.
        state: see `State`; `task` is the load or unload under way.
        leases: who holds it.
        used_at: when it was last leased or freed, by the service's clock.
        names: adapters under which it was asked for.
        retired: to be freed when the last lease ends.
        leaving: to be freed, with no new lease before.
        gone: set when it takes no room any more.
        closed: takes no new leases, so that one who waits for room gets this in the end.
        claimed: its room is promised to another digest, which is counted in its place.
        moving: the `immediate` replace that takes its requests elsewhere at this moment.
        idle_since: loop time at which it was let rest; `timer` looks whether it has rested for too long.
        not_before: loop time before which it is not tried again, after an unload that failed.
    """

    __slots__ = (
        "bytes",
        "claimed",
        "closed",
        "digest",
        "gone",
        "idle_since",
        "leases",
        "leaving",
        "moving",
        "names",
        "not_before",
        "retired",
        "state",
        "task",
        "timer",
        "used_at",
    )

    def __init__(self, digest: str, size: int, now: float) -> None:
        self.digest = digest
        self.bytes = size
        self.state = State.LOADING
        self.task: asyncio.Task[None] | None = None
        self.leases: set[Lease] = set()
        self.used_at = now
        self.names: set[str] = set()
        self.retired = False
        self.leaving = False
        self.gone = asyncio.Event()
        self.closed = False
        self.claimed = False
        self.moving: Move | None = None
        self.idle_since = 0.0
        self.timer: asyncio.TimerHandle | None = None
        self.not_before = 0.0

    @property
    def grantable(self) -> bool:
        """Whether a new lease can be given at once."""
        return self.state is State.RESIDENT and not self.closed and not self.leaving

    @property
    def idle(self) -> bool:
        """Whether it is resident and nobody holds it."""
        return self.state is State.RESIDENT and not self.leases

    @property
    def ending(self) -> bool:
        """Whether its leases end without anything else having to happen."""
        return not any(lease.waits for lease in self.leases)


Follows = Callable[[Reference], bool]
"""Whether what a request asked for means the new version after a replace."""


@dataclass(frozen=True, slots=True)
class Move:
    """An `immediate` replace under way: requests whose reference follows it go on under `target`, which is `ref`."""

    target: Entry
    ref: AdapterRef
    follows: Follows


class Lease:
    """A hold on one entry until `release`. An `immediate` replace moves it to another entry.

    Attributes:
        reference: what the request asked for, which decides whether it follows a replace; None never follows.
        hit: whether the weights were resident when it was asked for.
        waits: its request waits for more weights and has not begun, so that it does not end before others do.
        requests: ids of the requests that the engine was given under it.
        moves: the versions that it went over to.
        revoked: told when the weights are to leave now; whoever holds them without it is waited for.
    """

    __slots__ = ("_ended", "_entry", "hit", "moves", "reference", "requests", "revoked", "waits")

    def __init__(
        self, entry: Entry, ended: Callable[[Entry], None], reference: Reference | None, *, hit: bool = True
    ) -> None:
        self._entry: Entry | None = entry
        self._ended = ended
        self.reference = reference
        self.hit = hit
        self.waits = False
        self.requests: set[str] = set()
        self.moves: list[AdapterRef] = []
        self.revoked: Callable[[], None] | None = None
        entry.leases.add(self)

    @property
    def digest(self) -> str | None:
        """The digest that is held; None after `release`."""
        return self._entry.digest if self._entry is not None else None

    def begin(self, request: str) -> str:
        """Return the digest for a request, by its id, that the caller hands to the engine before anything is awaited.

        While a replace switches the engine's requests over, a request for the old digest would reach the engine too
        late to be switched: it begins on the new one.
        """
        if self._entry is None:
            raise RuntimeError("The lease was released: no request may begin under it")
        moving = self._entry.moving
        if moving is not None and self.follows(moving.follows):
            self.move(moving.target, moving.ref)
        self.requests.add(request)
        return self._entry.digest

    def follows(self, follows: Follows) -> bool:
        """Whether this request goes along with a replace."""
        return self.reference is not None and follows(self.reference)

    def move(self, entry: Entry, ref: AdapterRef) -> None:
        """Hold `entry` instead, which is that of `ref`."""
        self.moves.append(ref)
        if self._entry is not None:
            self._entry.leases.discard(self)
            self._entry = entry
            entry.leases.add(self)

    def release(self) -> None:
        """Give the hold back. Does nothing the second time."""
        entry, self._entry = self._entry, None
        if entry is not None:
            entry.leases.discard(self)
            self._ended(entry)
