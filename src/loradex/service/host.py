"""Weights in host memory, between the disk and the engine's device, within a budget of bytes.

An engine without a host tier has one memory for both; then what is staged is only read ahead by the disk.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Container

from loradex.adapters.adapter import Adapter
from loradex.engine.base import Engine
from loradex.errors import LoradexError
from loradex.service.budget import Lack
from loradex.service.eviction import Held, choose
from loradex.service.usage import Ledger

log = logging.getLogger(__name__)


class Host:
    """What is staged. Nothing here is needed for a right answer: what fails only makes a later load slower.

    Args:
        engine: which holds the copies.
        budget: bytes of them; None for no limit.
        ledger: who is used how much.
        pinned: digests that stay.
    """

    def __init__(self, engine: Engine, budget: int | None, ledger: Ledger, pinned: Container[str]) -> None:
        self._engine = engine
        self._ledger = ledger
        self._pinned = pinned
        self.budget = budget
        self._held: dict[str, int] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self.evictions = 0
        """Copies that made room for others, since the start."""

    @property
    def bytes(self) -> int:
        """What is held, or on its way in."""
        return sum(self._held.values())

    def held(self, digest: str) -> int:
        """Return the bytes that are held of an adapter."""
        return self._held.get(digest, 0)

    @property
    def tasks(self) -> list[asyncio.Task[None]]:
        """What is under way."""
        return list(self._tasks.values())

    def stage(self, adapter: Adapter) -> asyncio.Task[None] | None:
        """Begin to bring an adapter nearer; None where it is there, or has no room."""
        digest = adapter.digest
        if digest in self._tasks:
            return self._tasks[digest]
        if digest in self._held or (self._engine.host_tier and not self._make_room(self._engine.footprint(adapter))):
            return None
        self._held[digest] = self._engine.footprint(adapter) if self._engine.host_tier else 0
        task = asyncio.create_task(self._stage(adapter))
        self._tasks[digest] = task
        task.add_done_callback(lambda _: self._tasks.pop(digest))
        return task

    def drop(self, digest: str) -> None:
        """Let a copy go."""
        if self._held.pop(digest, None) is not None:
            self._engine.unstage(digest)

    def _make_room(self, size: int) -> bool:
        if self.budget is None:
            return True
        others = [
            Held(digest, held, self._ledger.frequency(digest), 0.0)
            for digest, held in self._held.items()
            if digest not in self._tasks and digest not in self._pinned
        ]
        chosen = choose(others, Lack(0, max(0, self.bytes + size - self.budget)))
        for each in chosen or ():
            self.evictions += 1
            self.drop(each.digest)
        return chosen is not None

    async def _stage(self, adapter: Adapter) -> None:
        held = 0
        try:
            held = await self._engine.stage(adapter)
        except LoradexError as error:  # whoever needs the weights hears of it from the load
            log.info("%s was not staged: %s", adapter.digest[:12], error)
        if not held:
            self._held.pop(adapter.digest, None)
        elif adapter.digest in self._held:
            self._held[adapter.digest] = held
        else:  # dropped meanwhile
            self._engine.unstage(adapter.digest)
