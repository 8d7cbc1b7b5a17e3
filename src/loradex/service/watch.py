"""Watched folders: each entry is an adapter of its name; what changes there becomes the next version."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from loradex.errors import AdapterInvalid, AdapterNotFound, ConfigInvalid, LoradexError, Problem
from loradex.registry.sources.archive import SUFFIXES
from loradex.service.adapters import Adapters
from loradex.service.settling import Mark, Settling

log = logging.getLogger(__name__)

LOOK_SECONDS = 30.0
"""How often is looked even if the system reports nothing: on some network file systems it never does."""

_FILES = (*SUFFIXES, ".gguf", ".nemo")
_DEPTH = 3


@dataclass(frozen=True, slots=True)
class Invalid:
    """An entry that cannot be served, and why. What the name meant before, it still means."""

    name: str
    path: Path
    code: str
    message: str
    problems: tuple[Problem, ...] = ()


class Watcher:
    """Keeps the registry in step with folders. An entry that goes away there stays in the registry.

    Args:
        adapters: the verbs.
        folders: each holds adapters: folders, archives or GGUF files; the entry's name is the adapter's.
        settle_seconds: how long an entry must not have changed before it is read.
        clock: seconds from any start.
    """

    def __init__(
        self, adapters: Adapters, folders: Sequence[Path], settle_seconds: float, clock: Callable[[], float]
    ) -> None:
        self.folders = tuple(folders)
        self._adapters = adapters
        self._settling = Settling(settle_seconds)
        self._clock = clock
        self._invalid: dict[Path, Invalid] = {}
        self._task: asyncio.Task[None] | None = None

    @property
    def invalid(self) -> list[Invalid]:
        """The entries that cannot be served as they are now, by name."""
        return sorted(self._invalid.values(), key=lambda each: (each.name, each.path))

    async def start(self) -> None:
        """Take in what lies there and is at rest, then watch until `stop`. Does nothing without folders.

        Content that a name has as a version already is left alone here: what the operator rolled back stays so.

        Raises:
            ConfigInvalid: a folder is not there.
        """
        for folder in self.folders:
            if not folder.is_dir():
                raise ConfigInvalid(f"The watched folder {folder} does not exist", hint="Make it, or drop `--watch`")
        if self.folders:
            await self.look(first=True)
            self._task = asyncio.create_task(self._watch())

    async def stop(self) -> None:
        """Stop watching."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def look(self, *, first: bool = False) -> None:
        """Look once, and take in what has settled."""
        marks = await asyncio.to_thread(lambda: dict(_marks(self.folders)))
        quiet = [path for path, mark in marks.items() if self._at_rest(mark)] if first else ()
        for path in [path for path in self._invalid if path not in marks]:
            del self._invalid[path]
        for path in self._settling.look(self._clock(), marks, quiet):
            await self._take(path, first)

    async def _watch(self) -> None:
        from watchfiles import awatch

        step = int(max(50.0, min(1000.0, self._settling.seconds * 500)))
        while True:
            looked = float("-inf")  # what came before the system began to report is seen by the first look
            try:
                changes = awatch(*self.folders, watch_filter=None, rust_timeout=step, yield_on_timeout=True)
                async for found in changes:
                    if found or self._settling.pending or self._clock() - looked > LOOK_SECONDS:
                        looked = self._clock()
                        await self.look()
            except Exception:  # an edge: nobody waits for this loop, and without it changes would go unseen
                log.exception("watching failed; it goes on")
                await asyncio.sleep(5)

    async def _take(self, path: Path, first: bool) -> None:
        name = _name(path)
        try:
            if first and await self._is_known(name, path):
                return
            change = await self._adapters.add(
                name, path, trusted=True, load=await self._is_resident(name), actor="watch"
            )
        except LoradexError as error:
            problems = error.problems if isinstance(error, AdapterInvalid) else ()
            self._invalid[path] = Invalid(name, path, error.code, error.message, problems)
            log.warning("%s is not served: %s", path, error.message)
            if error.status >= 500:  # the fault is not in the files
                self._settling.again(self._clock(), path)
            return
        self._invalid.pop(path, None)
        log.info("%s is %s", path, change.ref)

    async def _is_known(self, name: str, path: Path) -> bool:
        with suppress(AdapterNotFound):
            view = await self._adapters.get(name)
            report = (await self._adapters.check(path, trusted=True)).report
            return report.ok and report.digest in {each.record.digest for each in view.versions}
        return False

    async def _is_resident(self, name: str) -> bool:
        with suppress(AdapterNotFound):
            return any(each.resident for each in (await self._adapters.get(name)).versions)
        return False

    def _at_rest(self, mark: Mark) -> bool:
        # By the time of change, which copying tools cannot set back as they do with the time of modification.
        return time.time_ns() - max(changed for _, _, changed, _ in mark) >= self._settling.seconds * 1e9


def _name(path: Path) -> str:
    suffix = next((each for each in _FILES if path.is_file() and path.name.lower().endswith(each)), "")
    return path.name[: len(path.name) - len(suffix)]


def _marks(folders: Sequence[Path]) -> Iterator[tuple[Path, Mark]]:
    for folder in folders:
        with suppress(OSError):
            for entry in sorted(folder.iterdir()):
                if not entry.name.startswith(".") and (mark := _mark(entry)):
                    yield entry, mark


def _mark(entry: Path) -> Mark:
    with suppress(OSError):
        if entry.is_file():
            return (_seen(entry, ""),) if entry.name.lower().endswith(_FILES) else ()
        return tuple(_inside(entry, "", _DEPTH))
    return ()


def _inside(folder: Path, above: str, depth: int) -> Iterator[tuple[str, int, int, int]]:
    for each in sorted(folder.iterdir()):
        name = f"{above}{each.name}"
        if each.is_dir() and depth > 1:
            yield from _inside(each, f"{name}/", depth - 1)
        elif each.is_file():
            yield _seen(each, name)


def _seen(path: Path, name: str) -> tuple[str, int, int, int]:
    found = os.stat(path)
    return name, found.st_size, found.st_ctime_ns, found.st_ino
