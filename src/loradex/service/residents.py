"""The verbs on what is in the engine."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

from loradex.core.adapter import AdapterRef, Reference
from loradex.engine.base import Engine, Progress
from loradex.errors import AdapterNotFound, Conflict
from loradex.registry.registry import Registry
from loradex.registry.selecting import select
from loradex.service.departure import SECONDS, Departure, depart
from loradex.service.ending import EFFECT
from loradex.service.names import Names
from loradex.service.pins import Pins
from loradex.service.replace import Replacer
from loradex.service.residency import Residency
from loradex.service.views import Change


class Residents:
    """Load, pin, unpin and unload adapters. One change of a name at a time.

    Every verb raises RegistryFailed when the registry cannot be read or written.
    """

    def __init__(
        self,
        registry: Registry,
        engine: Engine,
        residency: Residency,
        names: Names,
        replacer: Replacer,
        pins: Pins,
        clock: Callable[[], float],
    ) -> None:
        self._registry = registry
        self._engine = engine
        self._residency = residency
        self._names = names
        self._replacer = replacer
        self._pins = pins
        self._clock = clock

    async def load(self, reference: str, *, actor: str = "", progress: Progress | None = None) -> Change:
        """Make the version that `reference` means resident. A name that was disabled is enabled again.

        Raises:
            InvalidRequest, AdapterNotFound: about the reference.
            Overloaded, EngineFailed, AdapterDamaged: it could not be loaded; a disabled name stays so.
        """
        wanted = Reference.parse(reference)
        async with self._names.alone(wanted.name):
            return await self._bring_in(wanted, actor, progress)

    async def pin(self, reference: str, *, actor: str = "") -> Change:
        """Load what `reference` means, and keep it in the engine until it is unpinned or the service stops.

        A pinned name or alias stays so when it means another version. Raises what `load` does.
        """
        wanted = Reference.parse(reference)
        async with self._names.alone(wanted.name):
            return await self._bring_in(wanted, actor, None, pin=True)

    async def unpin(self, reference: str) -> None:
        """Let what was pinned as `reference` make room again.

        Raises:
            InvalidRequest, AdapterNotFound: about the reference; it was not pinned.
        """
        wanted = Reference.parse(reference)
        async with self._names.alone(wanted.name):
            digest = self._pins.remove(wanted)
            if digest is None:
                raise AdapterNotFound(f"`{reference}` is not pinned", hint="See what is with `loradex ps`")
            await self._replacer.let_go(digest)
            self._residency.unpinned(digest)

    async def unload(
        self,
        reference: str,
        *,
        how: Departure = "detach",
        seconds: float = SECONDS,
        disable: bool = False,
        actor: str = "",
        progress: Progress | None = None,
    ) -> None:
        """Free the weights of every version for a bare name, else of that one.

        Args:
            reference: which.
            how: what happens to the answers that use them, and whether that is waited for.
            seconds: how long at most.
            disable: also take the name out of the model list (vLLM's unload); `add` and `load` bring it back.
            actor: who asks, for the history.
            progress: told every stage.

        Raises:
            InvalidRequest, AdapterNotFound: about the reference; a disabled name cannot be disabled again.
            Conflict: it is pinned, or in use for longer.
        """
        wanted = Reference.parse(reference)
        if progress is not None:
            progress(how, 0.0)
        async with self._names.alone(wanted.name):
            record = await asyncio.to_thread(self._registry.get, wanted.name, self._engine.info.digest)
            bare = wanted == Reference(wanted.name)
            versions = record.versions if bare else (select(record, wanted),)
            digests = {version.digest for version in versions}
            if pinned := sorted(str(each) for digest in digests for each in self._pins.of(digest)):
                raise Conflict(f"`{pinned[0]}` is pinned", hint=f"Unpin it first: loradex unpin {pinned[0]}")
            if disable:
                if not record.enabled:
                    raise AdapterNotFound(f"The adapter `{wanted.name}` is disabled already")
                await self._replacer.change(partial(self._registry.enable, wanted.name, False, actor=actor))
            retire = partial(self._residency.retire, leaving=how == "force")
            entries = [entry for digest in digests if (entry := retire(digest)) is not None]
        await depart(self._residency, entries, how, seconds)

    async def _bring_in(self, wanted: Reference, actor: str, progress: Progress | None, *, pin: bool = False) -> Change:
        started = self._clock()
        tell: Progress = progress if progress is not None else lambda *_: None
        tell("load", 0.0)
        record = await asyncio.to_thread(self._registry.get, wanted.name, self._engine.info.digest)
        version = select(record, wanted)
        lease = await self._residency.acquire(version.digest, name=wanted.name)
        try:
            tell(EFFECT, 0.0)
            if not record.enabled:
                await self._replacer.change(partial(self._registry.enable, wanted.name, True, actor=actor))
            self._residency.keep(version.digest)
            if pin:
                self._pins.add(wanted, version.digest)
        finally:
            lease.release()
        ref = AdapterRef(wanted.name, version.version, version.digest)
        return Change(ref=ref, load_seconds=self._clock() - started)
