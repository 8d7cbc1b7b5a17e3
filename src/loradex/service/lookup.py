"""Names that nobody registered: a resolver of the operator's may know where their adapter lies."""

from __future__ import annotations

import asyncio
import importlib
import inspect
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from pathlib import Path

from loradex.core.adapter import Reference
from loradex.core.mix import Mix
from loradex.errors import (
    AdapterNotFound,
    ConfigInvalid,
    FilesNotFound,
    LoradexError,
    SourceFailed,
)
from loradex.registry.source import contained
from loradex.service.adapters import Adapters

Place = str | Path | None
Resolver = Callable[[str], Place | Awaitable[Place]]
"""From the name in `model` to a path or address, or None. One that blocks runs in a thread."""

REMEMBERED_SECONDS = 10.0
"""How long a name that led nowhere is not looked up again."""

_REMEMBERED = 1024
_AT_ONCE = 4


def from_folder(folder: Path) -> Resolver:
    """Return a resolver that finds `NAME` as the sub-folder `NAME`, which must not lead out by a link."""

    def find(name: str) -> Place:
        path = folder / name
        return contained(path, [folder]) if path.is_dir() else None

    return find


def from_python(place: str) -> Resolver:
    """Return the function that `module:function` names.

    Raises:
        ConfigInvalid: it cannot be imported, or is no function.
    """
    module, _, name = place.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        hint = "Write it like `package.module:function`, where Python finds the module"
        raise ConfigInvalid(f"The resolver {place!r} cannot be imported: {error}", hint=hint) from error
    if not callable(found):
        raise ConfigInvalid(f"The resolver {place!r} is not a function")
    resolver: Resolver = found
    return resolver


class Lookup:
    """Asks the resolvers for a name, once for all who want it, and adds what they find.

    Args:
        adapters: the verbs.
        resolvers: asked in turn; the first answer counts. The operator vouches for what they return.
        clock: seconds from any start.
    """

    def __init__(self, adapters: Adapters, resolvers: tuple[Resolver, ...], clock: Callable[[], float]) -> None:
        self._adapters = adapters
        self._resolvers = resolvers
        self._clock = clock
        self._under_way: dict[str, asyncio.Task[bool]] = {}
        self._failed: OrderedDict[str, tuple[float, LoradexError | None]] = OrderedDict()
        self._places = asyncio.Semaphore(_AT_ONCE)

    async def bring(self, asked: Mix[Reference]) -> bool:
        """Add the adapters that unknown bare names mean; return whether there is one now.

        A name that the registry has is not looked up: it is disabled, or made for another base.

        Raises:
            AdapterInvalid, FilesNotFound, SourceFailed: one was found, and cannot be served.
        """
        if not self._resolvers:
            return False
        bare = [reference.name for reference in asked.adapters if reference == Reference(reference.name)]
        return any([await self._bring(name) for name in bare])

    async def _bring(self, name: str) -> bool:
        at, error = self._failed.get(name, (None, None))
        if at is not None and self._clock() - at < REMEMBERED_SECONDS:
            if error is not None:
                raise error
            return False
        if name not in self._under_way:
            self._under_way[name] = asyncio.create_task(self._find(name))
            self._under_way[name].add_done_callback(lambda task: self._ended(name, task))
        # A caller who goes away does not end it for the others.
        return await asyncio.shield(self._under_way[name])

    def _ended(self, name: str, task: asyncio.Task[bool]) -> None:
        del self._under_way[name]
        error = None if task.cancelled() else task.exception()
        if not task.cancelled() and (error is not None or not task.result()):
            self._failed[name] = (self._clock(), error if isinstance(error, LoradexError) else None)
            self._failed.move_to_end(name)
            while len(self._failed) > _REMEMBERED:
                self._failed.popitem(last=False)

    async def _find(self, name: str) -> bool:
        async with self._places:
            try:
                await self._adapters.get(name)
                return False
            except AdapterNotFound:
                pass
            for resolver in self._resolvers:
                place = await _ask(resolver, name)
                if place is not None:
                    await self._adapters.add(name, place, load=False, trusted=True, actor="resolver")
                    return True
        return False


async def _ask(resolver: Resolver, name: str) -> Place:
    try:
        found = await asyncio.to_thread(resolver, name)
        return await found if inspect.isawaitable(found) else found
    except FilesNotFound:
        return None
    except LoradexError:
        raise
    except Exception as error:  # it is not our code
        raise SourceFailed(f"The resolver failed on {name!r}: {error}", hint="Look at the resolver's code") from error
