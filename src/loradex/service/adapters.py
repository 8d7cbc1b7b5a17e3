"""The verbs on adapters."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace as with_values
from functools import partial

from loradex.core.adapter import DEFAULT_ALIAS, AdapterRef, Reference, check_name
from loradex.engine.base import Engine, Progress
from loradex.errors import AdapterNotFound, Conflict
from loradex.registry.records import AdapterRecord, HistoryEntry
from loradex.registry.registry import Registry
from loradex.registry.selecting import select
from loradex.service.ending import to_the_end
from loradex.service.intake import Asked, Intake, Source
from loradex.service.names import Names
from loradex.service.overview import Overview
from loradex.service.pins import Pins
from loradex.service.replace import Mode, Plan, Replacer
from loradex.service.residency import Residency
from loradex.service.staging import staged
from loradex.service.views import AdapterView, Change, Checked

__all__ = ["Adapters", "Mode"]


class Adapters:
    """Add, replace, promote, roll back, load and unload adapters. One change of a name at a time.

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
        *,
        intake: Intake,
        overview: Overview,
        clock: Callable[[], float],
    ) -> None:
        self._registry = registry
        self._engine = engine
        self._residency = residency
        self._names = names
        self._replacer = replacer
        self._pins = pins
        self._intake = intake
        self._overview = overview
        self._clock = clock

    async def add(
        self,
        name: str,
        source: Source,
        *,
        mode: Mode = "drain",
        replace: bool = True,
        load: bool = True,
        trusted: bool = False,
        allow_pickle: bool = False,
        sha256: str = "",
        canary: float | None = None,
        actor: str = "",
        progress: Progress | None = None,
    ) -> Change:
        """Register the adapter at `source` under `name`, as its next version, and let new requests use it.

        Content that the name already has as a version becomes current again, without a new number.

        Args:
            name: new, or the name whose next version this is.
            source: path of the adapter's folder, file or archive, or its address (`hf://`, `s3://`, `https://` ...).
            mode: for running answers: `drain` lets them finish on the old version, `immediate` switches them.
            replace: whether `name` may exist already.
            load: make it resident at once, beside the old version; else the first request does.
            trusted: the source comes from the operator: others than the allowed ones may be read.
            allow_pickle: accept `.bin` weights.
            sha256: refuse all but this digest, or an archive with this SHA-256.
            canary: percent of the requests for the bare name that the version gets; the name goes on to mean what it
                means. With 0 only requests that name the version reach it.
            actor: who asks, for the history.
            progress: told how far the download and the engine's preparation of the files are, from any thread.

        Raises:
            Conflict: the name means the base model, or exists and `replace` is False.
            InvalidRequest: the name is not valid, or has nothing yet beside which there could be a canary.
            PathNotAllowed, FilesNotFound, SourceFailed, AdapterInvalid: about the source and what lies there.
            Overloaded, EngineFailed, AdapterDamaged: see `Replacer.carry_out`; the old version serves on.
        """
        self._check_free(name)
        asked = Asked(source, trusted, allow_pickle, sha256)
        async with self._names.alone(name):
            old, also = await self._answering(name)
            stage = partial(self._intake.stage, asked, progress)
            if old is not None and not replace:
                raise Conflict(f"The adapter `{name}` exists already", hint="Replace it, or choose another name")
            started = self._clock()
            async with staged(self._registry, stage) as candidate:
                seconds = self._clock() - started
                move = partial(candidate.commit, name, actor, canary)
                plan = Plan(name, candidate.adapter, move, old, mode, load, progress, also)
                change = await self._replacer.carry_out(plan)
        return with_values(change, stage_seconds=seconds)

    async def check(
        self, source: Source, *, trusted: bool = False, allow_pickle: bool = False, sha256: str = ""
    ) -> Checked:
        """Read and check the adapter at `source` without storing or loading anything.

        Raises:
            PathNotAllowed, FilesNotFound, SourceFailed: about the source.
        """
        report = await asyncio.to_thread(self._intake.check, Asked(source, trusted, allow_pickle, sha256))
        size = self._engine.footprint(report.adapter) if report.adapter is not None else 0
        rate = self._residency.ledger.load_rate
        return Checked(report, size, size / rate if rate else None)

    async def list(self) -> list[AdapterView]:
        """Return every name that has versions for this base, disabled ones too."""
        records = await asyncio.to_thread(self._registry.list, self._engine.info.digest)
        return self._overview.of(records)

    async def get(self, name: str) -> AdapterView:
        """Return all that is known of a name.

        Raises:
            AdapterNotFound: there is no such name.
        """
        return self._overview.of([await asyncio.to_thread(self._registry.get, name, self._engine.info.digest)])[0]

    async def history(self, name: str) -> Sequence[HistoryEntry]:
        """Return every change of a name, oldest first.

        Raises:
            AdapterNotFound: the name was never there.
        """
        return await asyncio.to_thread(self._registry.history, name)

    async def promote(
        self, name: str, version: int, alias: str = DEFAULT_ALIAS, *, mode: Mode = "drain", actor: str = ""
    ) -> Change:
        """Point an alias at a version; `default` is what the bare name means. The version is made resident first.

        Raises:
            AdapterNotFound: no such name, or no such version for this base.
            Overloaded, EngineFailed, AdapterDamaged: see `Replacer.carry_out`.
        """
        async with self._names.alone(name):
            ref = await self._names.resolve(Reference(name, version=version), again=True)
            old, also = await self._answering(name)
            if alias != DEFAULT_ALIAS:
                old, also = await self._meaning(Reference(name, alias=alias)), ()
            move = partial(self._registry.promote, name, version, alias, actor=actor)
            return await self._to_version(ref, move, old, mode, also)

    async def rollback(self, name: str, *, mode: Mode = "drain", actor: str = "") -> Change:
        """Let the bare name mean what it meant before; while a canary runs, end that.

        Raises:
            AdapterNotFound: no such name, or it never meant anything else.
            Overloaded, EngineFailed, AdapterDamaged: see `Replacer.carry_out`.
        """
        base = self._engine.info.digest
        async with self._names.alone(name):
            ref = await asyncio.to_thread(self._registry.previous, name, base)
            old, also = await self._answering(name)
            move = partial(self._registry.rollback, name, actor=actor, base=base)
            return await self._to_version(ref, move, old, mode, also)

    async def remove_alias(self, name: str, alias: str, *, actor: str = "") -> None:
        """Remove an alias.

        Raises:
            AdapterNotFound: no such name or alias.
        """
        async with self._names.alone(name):
            old = await self._meaning(Reference(name, alias=alias))
            base = self._engine.info.digest
            work = partial(self._registry.remove_alias, name, alias, actor=actor, base=base)
            await self._change(work, [old] if old else [], name)

    async def remove(self, name: str, version: int | None = None, *, actor: str = "") -> None:
        """Remove a version, or the whole name. Running answers finish.

        Raises:
            AdapterNotFound: no such name or version.
            Conflict: an alias points to the version.
        """
        async with self._names.alone(name):
            record = await asyncio.to_thread(self._registry.get, name)
            gone = [
                AdapterRef(name, each.version, each.digest)
                for each in record.versions
                if version is None or each.version == version
            ]
            await self._change(partial(self._registry.remove, name, version, actor=actor), gone, name)

    async def load(self, reference: str, *, actor: str = "") -> Change:
        """Make the version that `reference` means resident. A name that was disabled is enabled again.

        Raises:
            InvalidRequest, AdapterNotFound: about the reference.
            Overloaded, EngineFailed, AdapterDamaged: it could not be loaded; a disabled name stays so.
        """
        wanted = Reference.parse(reference)
        async with self._names.alone(wanted.name):
            return await self._bring_in(wanted, actor)

    async def pin(self, reference: str, *, actor: str = "") -> Change:
        """Load what `reference` means, and keep it in the engine until it is unpinned or the service stops.

        A pinned name or alias stays so when it means another version. Raises what `load` does.
        """
        wanted = Reference.parse(reference)
        async with self._names.alone(wanted.name):
            return await self._bring_in(wanted, actor, pin=True)

    async def unpin(self, reference: str) -> AdapterView:
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
        return await self.get(wanted.name)

    async def unload(self, reference: str, *, disable: bool = False, actor: str = "") -> AdapterView:
        """Free the weights as soon as no answer uses them: of every version for a bare name, else of that one.

        Args:
            reference: which.
            disable: also take the name out of the model list (vLLM's unload); `add` and `load` bring it back.
            actor: who asks, for the history.

        Raises:
            InvalidRequest, AdapterNotFound: about the reference; a disabled name cannot be disabled again.
            Conflict: it is pinned.
        """
        wanted = Reference.parse(reference)
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
                await self._change(partial(self._registry.enable, wanted.name, False, actor=actor))
            for digest in digests:
                self._residency.retire(digest)
        return await self.get(wanted.name)

    def _check_free(self, name: str) -> None:
        if name in self._names.base_names:
            raise Conflict(f"The name `{name}` means the base model", hint="Choose another name for the adapter")
        check_name(name)

    async def _meaning(self, reference: Reference) -> AdapterRef | None:
        try:
            return await self._names.resolve(reference, again=True)
        except AdapterNotFound:
            return None

    async def _record(self, name: str) -> AdapterRecord | None:
        try:
            return await asyncio.to_thread(self._registry.get, name, self._engine.info.digest)
        except AdapterNotFound:
            return None

    async def _answering(self, name: str) -> tuple[AdapterRef | None, tuple[AdapterRef, ...]]:
        """Return what a bare name means, and what else answers to it in a canary."""
        try:
            meaning = await self._names.meaning(Reference(name), again=True)
        except AdapterNotFound:
            return None, ()
        return meaning.ref, tuple(meaning.refs.values())

    async def _to_version(
        self,
        ref: AdapterRef,
        move: Callable[[], AdapterRef],
        old: AdapterRef | None,
        mode: Mode,
        also: tuple[AdapterRef, ...],
    ) -> Change:
        adapter = await asyncio.to_thread(self._registry.adapter, ref.digest)
        return await self._replacer.carry_out(Plan(ref.name, adapter, move, old, mode, also=also))

    async def _bring_in(self, wanted: Reference, actor: str, *, pin: bool = False) -> Change:
        started = self._clock()
        record = await asyncio.to_thread(self._registry.get, wanted.name, self._engine.info.digest)
        version = select(record, wanted)
        lease = await self._residency.acquire(version.digest, name=wanted.name)
        try:
            if not record.enabled:
                await self._change(partial(self._registry.enable, wanted.name, True, actor=actor))
            self._residency.keep(version.digest)
            if pin:
                self._pins.add(wanted, version.digest)
        finally:
            lease.release()
        ref = AdapterRef(wanted.name, version.version, version.digest)
        return Change(ref=ref, load_seconds=self._clock() - started)

    async def _change(self, work: Callable[[], None], gone: Sequence[AdapterRef] = (), name: str | None = None) -> None:
        """Do `work` on the registry, then let go of weights that nothing means any more. Not cut short by a cancel.

        Pins of `name` follow what its forms mean afterwards.
        """

        async def all_of_it() -> None:
            try:
                await asyncio.to_thread(work)
            finally:
                self._names.forget()
            if name is not None:
                self._pins.follow(name, await self._record(name))
            for ref in gone:
                await self._replacer.let_go(ref.digest)

        await to_the_end(all_of_it())
