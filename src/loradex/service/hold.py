"""What holds each digest here, as snapshots."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass

from loradex.service.lease import Entry, State
from loradex.service.waiting import Waiter


@dataclass(frozen=True, slots=True)
class Hold:
    """A snapshot of one digest.

    Attributes:
        digest: of the weights.
        names: adapters under which it was asked for.
        resident: whether the engine can use it at its next step.
        bytes: what it takes in the engine, or will when it is loaded; 0 where that is not known yet.
        leases: answers that hold it.
        waiting: requests that wait for its slot or its load.
        pinned: whether it stays until it is unpinned.
        idle_seconds: since it was last leased or freed.
    """

    digest: str
    names: tuple[str, ...]
    resident: bool
    bytes: int
    leases: int
    waiting: int
    pinned: bool
    idle_seconds: float


def snapshot(
    entries: Mapping[str, Entry], waiters: Iterable[Waiter], pinned: Container[str], now: float
) -> dict[str, Hold]:
    """Return everything that is resident, on its way, or waited for, by digest."""
    waiting: dict[str, list[str]] = {}
    for waiter in waiters:
        waiting.setdefault(waiter.digest, []).append(waiter.name)
    found = {}
    for digest in {**entries, **waiting}:
        entry = entries.get(digest)
        names = (entry.names if entry is not None else set()) | set(waiting.get(digest, ()))
        found[digest] = Hold(
            digest=digest,
            names=tuple(sorted(names - {""})),
            resident=entry is not None and entry.state is State.RESIDENT,
            bytes=entry.bytes if entry is not None else 0,
            leases=len(entry.leases) if entry is not None else 0,
            waiting=len(waiting.get(digest, ())),
            pinned=digest in pinned,
            idle_seconds=now - entry.used_at if entry is not None else 0.0,
        )
    return found
