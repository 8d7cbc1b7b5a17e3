"""The verbs on adapters."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace as with_values
from functools import partial

from loradex.adapters.adapter import Adapter
from loradex.core.adapter import AUTO, DEFAULT_ALIAS, AdapterRef, Reference, check_name
from loradex.core.defaults import Defaults
from loradex.engine.base import Engine, Progress
from loradex.errors import AdapterInvalid, AdapterNotFound, Conflict
from loradex.registry.records import HistoryEntry
from loradex.registry.registry import Registry
from loradex.service.ending import to_the_end
from loradex.service.intake import Asked, Intake, Source
from loradex.service.names import Names
from loradex.service.overview import Overview
from loradex.service.rendering import Rendering
from loradex.service.replace import Mode, Plan, Replacer
from loradex.service.residency import Residency
from loradex.service.staging import staged
from loradex.service.trial import Trials
from loradex.service.views import AdapterView, Change, Checked

__all__ = ["Adapters", "Mode"]


class Adapters:
    """Add, replace, promote, roll back and remove adapters. One change of a name at a time.

    Every verb raises RegistryFailed when the registry cannot be read or written.
    """

    def __init__(
        self,
        registry: Registry,
        engine: Engine,
        residency: Residency,
        names: Names,
        replacer: Replacer,
        *,
        intake: Intake,
        overview: Overview,
        trials: Trials,
        rendering: Rendering,
        clock: Callable[[], float],
    ) -> None:
        self._registry = registry
        self._engine = engine
        self._residency = residency
        self._names = names
        self._replacer = replacer
        self._intake = intake
        self._overview = overview
        self._trials = trials
        self._rendering = rendering
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
        defaults: Defaults | None = None,
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
            defaults: what requests for the version may leave out; None for what requests for the name may now.
            actor: who asks, for the history.
            progress: told every stage, and how far the download and the engine's preparation of the files are, from any
                thread.

        Raises:
            Conflict: the name means the base model, or exists and `replace` is False; or the new version has other
                tokens, which is no change in mid-answer (`immediate`).
            InvalidRequest: the name is not valid, or has nothing yet beside which there could be a canary; or the chat
                template cannot be rendered.
            PathNotAllowed, FilesNotFound, SourceFailed, AdapterInvalid: about the source and what lies there.
            Overloaded, EngineFailed, AdapterDamaged: see `Replacer.carry_out`; the old version serves on.
        """
        self._check_free(name)
        asked = Asked(source, trusted, allow_pickle, sha256, defaults)
        if defaults is not None:
            await self._rendering.try_out(defaults)
        async with self._names.alone(name):
            old, also = await self._answering(name)
            stage = partial(self._intake.stage, asked, progress)
            if old is not None and not replace:
                raise Conflict(f"The adapter `{name}` exists already", hint="Replace it, or choose another name")
            started = self._clock()
            if progress is not None:
                progress("check", 0.0)
            async with staged(self._registry, stage) as candidate:
                seconds = self._clock() - started
                await self._rendering.learn(candidate.adapter)
                move = partial(candidate.commit, name, actor, canary)
                plan = Plan(name, candidate.adapter, move, old, mode, load, progress, also)
                change = await self._carry_out(plan)
            if canary is None:
                self._look_at(change)
        return with_values(change, stage_seconds=seconds)

    async def check(
        self, source: Source, *, trusted: bool = False, allow_pickle: bool = False, sha256: str = ""
    ) -> Checked:
        """Read and check the adapter at `source` without storing or loading anything.

        Raises:
            PathNotAllowed, FilesNotFound, SourceFailed: about the source.
        """
        asked, gone = Asked(source, trusted, allow_pickle, sha256), threading.Event()
        report = await to_the_end(asyncio.to_thread(self._intake.check, asked, gone), gone.set)
        size = 0
        if report.adapter is not None:
            size = self._engine.footprint(report.adapter)
            try:
                await self._rendering.learn(report.adapter)
            except AdapterInvalid as error:
                report = with_values(report, problems=(*report.problems, *error.problems))
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
        self,
        name: str,
        version: int,
        alias: str = DEFAULT_ALIAS,
        *,
        mode: Mode = "drain",
        actor: str = "",
        progress: Progress | None = None,
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
            plan = partial(Plan, name, move=move, old=old, mode=mode, progress=progress, also=also)
            change = await self._to_version(ref, plan)
            if alias == DEFAULT_ALIAS:
                self._look_at(change)
        return change

    async def rollback(
        self,
        name: str,
        *,
        mode: Mode = "drain",
        actor: str = "",
        note: str = "",
        of: AdapterRef | None = None,
        progress: Progress | None = None,
    ) -> Change:
        """Let the bare name mean what it meant before; while a canary runs, end that.

        Args:
            name: of the adapter.
            mode: for running answers, as for `add`.
            actor: who asks, for the history.
            note: why, for the history.
            of: only while the name means this version.
            progress: told every stage.

        Raises:
            AdapterNotFound: no such name, or it never meant anything else.
            Conflict: the name does not mean `of` any more.
            Overloaded, EngineFailed, AdapterDamaged: see `Replacer.carry_out`.
        """
        base = self._engine.info.digest
        async with self._names.alone(name):
            ref = await asyncio.to_thread(self._registry.previous, name, base)
            old, also = await self._answering(name)
            if of is not None and of != old:
                raise Conflict(f"`{name}` does not mean version {of.version} any more")
            move = partial(self._registry.rollback, name, actor=actor, base=base, note=note)
            plan = partial(Plan, name, move=move, old=old, mode=mode, progress=progress, also=also)
            return await self._to_version(ref, plan)

    async def configure(self, name: str, defaults: Defaults, version: int | None = None, *, actor: str = "") -> None:
        """Change what requests for a version may leave out; None for the one that the name means.

        Raises:
            AdapterNotFound: no such name or version.
            InvalidRequest: the chat template cannot be rendered.
        """
        await self._rendering.try_out(defaults)
        async with self._names.alone(name):
            base = self._engine.info.digest
            await self._replacer.change(
                partial(self._registry.configure, name, version, defaults, actor=actor, base=base)
            )

    async def remove_alias(self, name: str, alias: str, *, actor: str = "") -> None:
        """Remove an alias.

        Raises:
            AdapterNotFound: no such name or alias.
        """
        async with self._names.alone(name):
            old = await self._meaning(Reference(name, alias=alias))
            base = self._engine.info.digest
            work = partial(self._registry.remove_alias, name, alias, actor=actor, base=base)
            await self._replacer.change(work, name, [old.digest] if old else [])

    async def remove(self, name: str, version: int | None = None, *, actor: str = "") -> None:
        """Remove a version, or the whole name. Running answers finish.

        Raises:
            AdapterNotFound: no such name or version.
            Conflict: an alias points to the version.
        """
        async with self._names.alone(name):
            record = await asyncio.to_thread(self._registry.get, name)
            gone = [each.digest for each in record.versions if version is None or each.version == version]
            await self._replacer.change(partial(self._registry.remove, name, version, actor=actor), name, gone)

    def _check_free(self, name: str) -> None:
        if name in self._names.base_names:
            raise Conflict(f"The name `{name}` means the base model", hint="Choose another name for the adapter")
        if name == AUTO:
            raise Conflict(f"The name `{AUTO}` lets the prompt choose", hint="Choose another name for the adapter")
        check_name(name)

    async def _meaning(self, reference: Reference) -> AdapterRef | None:
        try:
            return await self._names.resolve(reference, again=True)
        except AdapterNotFound:
            return None

    async def _answering(self, name: str) -> tuple[AdapterRef | None, tuple[AdapterRef, ...]]:
        """Return what a bare name means, and what else answers to it in a canary."""
        try:
            meaning = await self._names.meaning(Reference(name), again=True)
        except AdapterNotFound:
            return None, ()
        return meaning.ref, tuple(meaning.refs[version] for version in meaning.shares)

    def _look_at(self, change: Change) -> None:
        """Look at a version that has taken over for a while, and roll it back if it fails."""
        if change.previous is not None and change.previous != change.ref:
            self._trials.begin(change.ref, self._clock())

    async def _to_version(self, ref: AdapterRef, plan: Callable[[Adapter], Plan]) -> Change:
        return await self._carry_out(plan(await asyncio.to_thread(self._registry.adapter, ref.digest)))

    async def _carry_out(self, plan: Plan) -> Change:
        if plan.mode == "immediate":
            for old in (*((plan.old,) if plan.old is not None else ()), *plan.also):
                await self._rendering.require_alike(old, plan.adapter)
        return await self._replacer.carry_out(plan)
