"""The verbs that bring a version to some of a name's requests before it gets all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

from loradex.core.adapter import Reference
from loradex.core.canary import Shares, completed
from loradex.engine.base import Engine
from loradex.registry.records import AdapterRecord
from loradex.registry.registry import Registry
from loradex.registry.selecting import select
from loradex.service.names import Names
from loradex.service.replace import Replacer


class Rollout:
    """Canaries and shadows. Answers that run finish on the version they began with.

    Every verb raises RegistryFailed when the registry cannot be read or written.
    """

    def __init__(self, registry: Registry, engine: Engine, names: Names, replacer: Replacer) -> None:
        self._registry = registry
        self._engine = engine
        self._names = names
        self._replacer = replacer

    async def canary(self, name: str, shares: Shares, *, actor: str = "") -> None:
        """Let versions share the requests for the bare name; all of them are made resident first.

        Args:
            name: of the adapter.
            shares: percent by version; what is missing to 100 goes to the version that the name means.
            actor: who asks, for the history.

        Raises:
            AdapterNotFound: no such name or version.
            InvalidRequest: the shares are no percentages, or leave everything to one version.
            Overloaded, EngineFailed, AdapterDamaged: a version cannot be made resident. Nothing has changed.
        """
        base = self._engine.info.digest
        async with self._names.alone(name):
            before = await asyncio.to_thread(self._registry.get, name, base)
            versions = [select(before, Reference(name, version=number)) for number in shares]
            completed(shares, before.current or 0)  # refused before anything is loaded for it
            for version in versions:
                await self._replacer.try_out(name, version.digest)
            await self._change(before, partial(self._registry.canary, name, shares, actor=actor, base=base))

    async def end_canary(
        self, name: str, version: int | None = None, *, actor: str = "", action: str = "end_canary", note: str = ""
    ) -> None:
        """Give the share of one version, or of all, back to what the name goes back to.

        Raises:
            AdapterNotFound: no such name, or it has no canary, or none with that version.
        """
        base = self._engine.info.digest
        async with self._names.alone(name):
            before = await asyncio.to_thread(self._registry.get, name, base)
            given = {"actor": actor, "base": base, "action": action, "note": note}
            work = partial(self._registry.end_canary, name, version, **given)
            await self._change(before, work)

    async def shadow(self, name: str, version: int, percent: float = 100.0, *, actor: str = "") -> None:
        """Let a version get a copy of `percent` of the requests for the bare name; its answers are only recorded.

        Raises:
            AdapterNotFound: no such name or version.
            InvalidRequest: that is no percentage.
            Overloaded, EngineFailed, AdapterDamaged: the version cannot be made resident. Nothing has changed.
        """
        async with self._names.alone(name):
            before = await asyncio.to_thread(self._registry.get, name, self._engine.info.digest)
            await self._replacer.try_out(name, select(before, Reference(name, version=version)).digest)
            await self._change(before, partial(self._registry.shadow, name, version, percent, actor=actor))

    async def end_shadow(self, name: str, *, actor: str = "") -> None:
        """End the copies.

        Raises:
            AdapterNotFound: no such name, or it has no shadow.
        """
        base = self._engine.info.digest
        async with self._names.alone(name):
            before = await asyncio.to_thread(self._registry.get, name, base)
            await self._change(before, partial(self._registry.end_shadow, name, actor=actor, base=base))

    async def _change(self, before: AdapterRecord, work: Callable[[], object]) -> None:
        numbers = {before.current, *before.canary, *((before.shadow.version,) if before.shadow else ())}
        answering = [version.digest for version in before.versions if version.version in numbers]
        await self._replacer.change(work, before.name, answering)
