"""Adapters that are checked and stored, but not registered yet: what is not registered in the end leaves the store."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from loradex.errors import RegistryFailed
from loradex.registry.records import Staged
from loradex.registry.registry import Registry
from loradex.service.ending import to_the_end


class Staging:
    """Keeps count of what is staged, since two names may be given the same content at the same time."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._held: Counter[str] = Counter()

    @asynccontextmanager
    async def hold(self, stage: Callable[[], Staged]) -> AsyncIterator[Staged]:
        """Stage in a thread, for the time of the block; if the block fails, the files are discarded.

        Raises:
            LoradexError: whatever `stage` raises.
        """
        task = asyncio.ensure_future(asyncio.to_thread(stage))
        try:
            staged = await to_the_end(task)
        except asyncio.CancelledError:
            # The thread cannot be stopped; it has ended now, and what it stored is of no use.
            if not task.cancelled() and task.exception() is None:
                await self._discard(task.result())
            raise
        digest = staged.adapter.digest
        self._held[digest] += 1
        done = False
        try:
            yield staged
            done = True
        finally:
            self._held[digest] -= 1
            if not done:
                await self._discard(staged)

    async def _discard(self, staged: Staged) -> None:
        """Remove the files, unless another verb has staged the same content. Files that stay do no harm."""
        if not self._held[staged.adapter.digest]:
            del self._held[staged.adapter.digest]
            with suppress(RegistryFailed):
                await to_the_end(asyncio.to_thread(self._registry.discard, staged))
