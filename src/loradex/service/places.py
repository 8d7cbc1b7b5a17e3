"""Adapters that requests name by where they lie: registered when they are first seen, and never loaded twice."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path
from weakref import WeakValueDictionary

from loradex.core.adapter import Reference
from loradex.errors import AdapterNotFound, PathNotAllowed, PermissionDenied
from loradex.registry.source import contained
from loradex.registry.sources.address import is_url
from loradex.service.adapters import Adapters

_State = tuple[tuple[str, int, int], ...]


class Places:
    """What lies where, as far as requests have told.

    Args:
        adapters: registers, checks and loads.
        folders: from which untrusted callers may have read.
    """

    def __init__(self, adapters: Adapters, folders: Sequence[Path]) -> None:
        self._adapters = adapters
        self._folders = tuple(folders)
        self._known: dict[tuple[str, str], tuple[_State, Reference]] = {}
        # Weak, so that made-up names cannot fill the memory.
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def version(
        self, name: str, place: str, *, again: bool = False, trusted: bool = False, actor: str = ""
    ) -> Reference:
        """Return the version of a name at a place: what is known of it, as long as its files look as they did.

        The same name with another place, or with other files there, is a new version, and what the name means from
        then on.

        Args:
            name: of the adapter.
            place: path or address.
            again: read it although nothing there seems to have changed.
            trusted: the place comes from the operator; pickled weights are taken too.
            actor: who asks, for the history.

        Raises:
            LoradexError: whatever `Adapters.add` raises: it may not be read, leads nowhere or to what cannot be served.
        """
        async with self._locks.setdefault(name, asyncio.Lock()):
            state = await asyncio.to_thread(self._state, place, trusted)
            seen, reference = self._known.get((name, place), (None, None))
            if reference is None or seen != state or again:
                change = await self._adapters.add(
                    name, place, load=False, trusted=trusted, allow_pickle=trusted, actor=actor
                )
                reference = Reference(name, version=change.ref.version)
                self._known[name, place] = (state, reference)
            return reference

    async def registered(self, name: str, place: str) -> Reference:
        """Return the newest version of a name that came from a place, for callers who may change nothing.

        Raises:
            PermissionDenied: there is none.
        """
        came = {place} if is_url(place) else {os.path.abspath(place), os.path.realpath(place)}
        try:
            versions = (await self._adapters.get(name)).versions
        except AdapterNotFound:
            versions = ()
        found = [each.record.version for each in versions if each.record.source in came]
        if not found:
            raise PermissionDenied(
                f"No adapter `{name[:128]}` was loaded from {place[:200]!r} before, and this key may load none",
                hint="Let an admin key load it (`loradex adapter add NAME PATH`), or send its name without a path",
            )
        return Reference(name, version=max(found))

    def _state(self, place: str, trusted: bool) -> _State:
        """Return name, size and time of the files at a path, two folders deep; nothing for what is no path here.

        Training writes again and again to one folder: what lies there may not be what was read.
        """
        try:
            path = Path(place).expanduser() if trusted else contained(place, self._folders)
            files = [path] if path.is_file() else [*path.glob("*"), *path.glob("*/*")]
            stats = [(str(file), file.stat()) for file in sorted(files) if file.is_file()]
        except (PathNotAllowed, OSError, ValueError):
            return ()  # adding it will say what is wrong
        return tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats)
