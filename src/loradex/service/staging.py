"""An adapter that is checked and stored, but not registered yet: if it never is, its files leave the store."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from loradex.adapters.adapter import Adapter
from loradex.core.adapter import AdapterRef
from loradex.errors import RegistryFailed
from loradex.registry.records import Staged
from loradex.registry.registry import Registry
from loradex.service.ending import to_the_end


class Candidate:
    """What was staged, to be committed once or not at all."""

    def __init__(self, registry: Registry, staged: Staged) -> None:
        self._registry = registry
        self._staged = staged
        self.committed = False

    @property
    def adapter(self) -> Adapter:
        """The adapter, in the store."""
        return self._staged.adapter

    def commit(self, name: str, actor: str, canary: float | None = None) -> AdapterRef:
        """Register it as the version that `name` means, or with a share of its requests. Blocks: runs in a thread.

        Raises:
            InvalidRequest: there is nothing to be a canary beside.
            Conflict: the staged files were removed meanwhile.
            RegistryFailed: the store cannot be written. Nothing was changed.
        """
        ref = self._registry.commit(name, self._staged, actor=actor, serve=canary is None, canary=canary)
        self.committed = True
        return ref

    def discard(self) -> None:
        """Remove the files, where nothing else refers to them. Blocks. Files that cannot be removed do no harm."""
        if not self.committed:
            with suppress(RegistryFailed):
                self._registry.discard(self._staged)


@asynccontextmanager
async def staged(registry: Registry, stage: Callable[[threading.Event], Staged]) -> AsyncIterator[Candidate]:
    """Stage in a thread, for the time of the block; what the block does not commit is discarded.

    `stage` is given an event that is set when nobody waits for it any more, and then ends as soon as it can.

    Raises:
        LoradexError: whatever `stage` raises.
    """
    gone = threading.Event()
    task = asyncio.ensure_future(asyncio.to_thread(stage, gone))
    try:
        found = await to_the_end(task, gone.set)
    except asyncio.CancelledError:
        # The thread has ended, and what it may have stored is of no use.
        if not task.cancelled() and task.exception() is None:
            await to_the_end(asyncio.to_thread(Candidate(registry, task.result()).discard))
        raise
    candidate = Candidate(registry, found)
    try:
        yield candidate
    finally:
        if not candidate.committed:
            await to_the_end(asyncio.to_thread(candidate.discard))
