"""How each adapter is used: what decides who is evicted, and what `ps` shows."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, replace

HALF_LIFE = 256
"""Leases, of all adapters together, after which a lease counts half. Counted in leases, not in seconds, so that what is
popular stays so through a quiet hour."""

KEPT = 10_000
"""Digests that are remembered, evicted ones too: one that comes back is as popular as before."""


@dataclass(frozen=True, slots=True)
class Usage:
    """One digest since the start.

    Attributes:
        hits: leases on weights that were resident.
        misses: leases that had to wait for a load.
        loads: how often it was loaded.
        load_seconds: what the last load took.
        evictions: how often it made room for another.
    """

    hits: int = 0
    misses: int = 0
    loads: int = 0
    load_seconds: float = 0.0
    evictions: int = 0
    decayed: float = 0.0
    lease: int = 0

    @property
    def leases(self) -> int:
        """Hits and misses."""
        return self.hits + self.misses


UNUSED = Usage()


class Ledger:
    """The usage of every digest."""

    def __init__(self, half_life: int = HALF_LIFE, kept: int = KEPT) -> None:
        self._half_life = half_life
        self._kept = kept
        self._leases = 0
        self._usages: OrderedDict[str, Usage] = OrderedDict()
        self._bytes = 0
        self._seconds = 0.0

    @property
    def load_rate(self) -> float | None:
        """Bytes a second of all loads so far; None before the first."""
        return self._bytes / self._seconds if self._bytes and self._seconds > 0 else None

    def leased(self, digest: str, *, hit: bool) -> None:
        """Count a lease."""
        decayed = self.frequency(digest) + 1.0
        self._leases += 1
        usage = self.of(digest)
        hits, misses = usage.hits + hit, usage.misses + (not hit)
        self._note(digest, replace(usage, hits=hits, misses=misses, decayed=decayed, lease=self._leases))

    def loaded(self, digest: str, seconds: float, size: int = 0) -> None:
        """Count a load of `size` bytes."""
        self._bytes += size
        self._seconds += seconds
        usage = self.of(digest)
        self._note(digest, replace(usage, loads=usage.loads + 1, load_seconds=seconds))

    def evicted(self, digest: str) -> None:
        """Count an eviction."""
        usage = self.of(digest)
        self._note(digest, replace(usage, evictions=usage.evictions + 1))

    def frequency(self, digest: str) -> float:
        """Return how many leases it had lately: each counts half after `half_life` others."""
        usage = self._usages.get(digest)
        return usage.decayed * 0.5 ** ((self._leases - usage.lease) / self._half_life) if usage is not None else 0.0

    def of(self, digest: str) -> Usage:
        """Return the usage of a digest."""
        return self._usages.get(digest, UNUSED)

    def _note(self, digest: str, usage: Usage) -> None:
        """Remember the usage of a digest; the longest unused one is forgotten for it."""
        self._usages[digest] = usage
        self._usages.move_to_end(digest)
        while len(self._usages) > self._kept:
            self._usages.popitem(last=False)
