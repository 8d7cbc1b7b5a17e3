"""Lets weights go that nobody has held for a while."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from loradex.service.lease import Entry

TICK_SECONDS = 0.01
"""Timers may come that much too early."""


class Idle:
    """Watches entries that nobody holds. One timer for each entry, however often it is used meanwhile.

    Args:
        seconds: how long they may rest; None for ever.
        may_go: whether an entry is still there, idle, and not to be kept.
        leave: called for one that has rested for too long.
    """

    def __init__(self, seconds: float | None, may_go: Callable[[Entry], bool], leave: Callable[[Entry], None]) -> None:
        self._seconds = seconds
        self._may_go = may_go
        self._leave = leave

    def rest(self, entry: Entry) -> None:
        """Count from now."""
        if self._seconds is None:
            return
        loop = asyncio.get_running_loop()
        entry.idle_since = loop.time()
        if entry.timer is None:
            entry.timer = loop.call_later(self._seconds, self._look, entry, self._seconds)

    def _look(self, entry: Entry, seconds: float) -> None:
        """Let it go, or look again when it may have rested for long enough."""
        loop = asyncio.get_running_loop()
        entry.timer = None
        if not self._may_go(entry):
            return  # when it rests again it is counted again
        left = entry.idle_since + seconds - loop.time()
        if left > TICK_SECONDS:
            entry.timer = loop.call_later(left, self._look, entry, seconds)
        else:
            self._leave(entry)
