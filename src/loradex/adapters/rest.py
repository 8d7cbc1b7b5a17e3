"""Work on adapter files beside answers, slowly enough that these do not wait for a core."""

from __future__ import annotations

import time
from collections.abc import Callable

SLICE_SECONDS = 0.0005
"""Worked between two rests, by the thread's own clock."""

SHARE = 0.05
"""Of one core, for what is not urgent while answers are computed; `engine.load_share` sets another."""

PATIENCE_SECONDS = 15.0
"""After so long a smaller share than `MOST` doubles, and so on: a large adapter must not take twenty times its work."""

MOST = 0.25


class Rest:
    """Sleeps after each slice so long that this thread takes a `share` of one core while `busy` says so.

    A small share grows with the time that the work takes; with 1 it never sleeps.

    A lower priority for the thread would do the same and use idle cores better, but it can be put aside while it holds
    the interpreter's lock, and then everybody waits for it.
    """

    def __init__(self, busy: Callable[[], bool], share: float = SHARE) -> None:
        self._busy = busy
        self._least = min(1.0, share)
        self._first: float | None = None
        self._began: float | None = None

    def __call__(self) -> None:
        """Rest, if enough was worked since the last time; the first call, in the working thread, only looks."""
        now = time.thread_time()
        worked = 0.0 if self._began is None else now - self._began
        if self._began is None or worked >= SLICE_SECONDS:
            if worked and self._busy():
                time.sleep(worked * (1 / self._share() - 1))
            self._began = time.thread_time()

    def _share(self) -> float:
        now = time.monotonic()
        self._first = now if self._first is None else self._first
        doublings = min(8, int((now - self._first) / PATIENCE_SECONDS))
        return min(max(MOST, self._least), self._least * 2.0**doublings)
