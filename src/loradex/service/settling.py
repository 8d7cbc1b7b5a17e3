"""Which entries of watched folders have stopped changing: a half-copied adapter must not be read. No clock, no disk."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TypeAlias

Mark: TypeAlias = tuple[tuple[str, int, int, int], ...]
"""What an entry looks like: name, size, time of change and inode of each of its files."""


class Settling:
    """Looks again and again; an entry is due once, when it has looked the same for some time.

    Args:
        seconds: how long.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._seen: dict[Path, tuple[Mark, float]] = {}
        self._done: dict[Path, Mark] = {}

    @property
    def pending(self) -> bool:
        """Whether an entry is on its way to be due."""
        return any(self._done.get(path) != mark for path, (mark, _) in self._seen.items())

    def look(self, now: float, marks: Mapping[Path, Mark], quiet: Collection[Path] = ()) -> list[Path]:
        """Return what is due at `now`; entries in `quiet` are known to have been left alone for long enough."""
        self._done = {path: mark for path, mark in self._done.items() if path in marks}
        seen: dict[Path, tuple[Mark, float]] = {}
        due = []
        for path, mark in marks.items():
            before, since = self._seen.get(path, (None, now))
            seen[path] = (mark, since if before == mark else now)
            settled = path in quiet or now - seen[path][1] >= self.seconds
            if settled and self._done.get(path) != mark:
                self._done[path] = mark
                due.append(path)
        self._seen = seen
        return sorted(due)

    def again(self, now: float, path: Path) -> None:
        """Let an entry be due once more, after as long as if it had just changed."""
        self._done.pop(path, None)
        if path in self._seen:
            self._seen[path] = (self._seen[path][0], now)
