"""Adapters read from the registry, once for all who want them at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from loradex.adapters.adapter import Adapter
from loradex.errors import EngineStopped

Done = Callable[[str, Adapter | BaseException], None]
"""Told a digest and what came of it."""


class Reading:
    """What is being read."""

    def __init__(self, read: Callable[[str], Awaitable[Adapter]], done: Done) -> None:
        self._read = read
        self._done = done
        self._tasks: dict[str, asyncio.Future[Adapter]] = {}

    def __contains__(self, digest: str) -> bool:
        return digest in self._tasks

    @property
    def tasks(self) -> list[asyncio.Future[Adapter]]:
        """The reads."""
        return list(self._tasks.values())

    def begin(self, digest: str) -> None:
        """Read an adapter, unless that is under way."""
        if digest not in self._tasks:
            task = asyncio.ensure_future(self._read(digest))
            self._tasks[digest] = task
            task.add_done_callback(lambda ended: self._ended(digest, ended))

    def _ended(self, digest: str, task: asyncio.Future[Adapter]) -> None:
        del self._tasks[digest]
        if task.cancelled():
            self._done(digest, EngineStopped("The service is stopping"))
        else:
            self._done(digest, task.exception() or task.result())
