"""The replace procedure: a new version becomes resident and warm, the name moves over, the old one drains.

    prepare  what loads need done to the files once, with no slot taken yet; what fails here only costs time later
    load     the new weights get a slot beside the old ones; with no slot free this waits, at most `max_queue_seconds`
    warm     one token under them, so that what breaks breaks here
    move     one transaction in the registry: from here on new requests get the new version
    switch   `immediate` only: running requests go over at a step boundary. The engine switches all that runs under the
             old weights, so where one of them asked for exactly that version, or under another name or alias that
             still means it, none is switched, and the error says so
    drain    the old weights are freed when the last answer that holds them ends

Whatever fails, or is cancelled, before the move changes nothing: the old version serves, the new weights leave the
engine. From the move on nothing is cancelled any more; a switch that fails then is reported as such.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from loradex.adapters.adapter import Adapter
from loradex.core.adapter import AdapterRef, Reference
from loradex.core.event import Finished
from loradex.core.mix import Mix
from loradex.core.request import GenerateRequest
from loradex.core.sampling import Sampling
from loradex.engine.base import Engine, Progress
from loradex.errors import AdapterNotFound, EngineFailed, LoradexError, RegistryFailed
from loradex.registry.records import AdapterRecord
from loradex.registry.registry import Registry
from loradex.registry.selecting import select
from loradex.service.ending import EFFECT, closing, to_the_end
from loradex.service.metrics import Metrics
from loradex.service.names import Names
from loradex.service.pins import Pins
from loradex.service.residency import Residency
from loradex.service.views import Change

log = logging.getLogger(__name__)

Mode = Literal["drain", "immediate"]

_ONE_TOKEN = Sampling(temperature=0.0, max_tokens=1, ignore_eos=True)


@dataclass(frozen=True, slots=True)
class Plan:
    """One replace.

    Attributes:
        name: whose meaning changes.
        adapter: the new weights.
        move: makes the change in the registry, in one transaction; runs in a thread.
        old: what the name means now, None for nothing.
        mode: `drain` lets running answers finish on the old weights, `immediate` switches them.
        load: make the new weights resident first; `immediate` always does.
        progress: told every stage, and how far the preparation is.
        also: what else answers to the name now, in a canary.
    """

    name: str
    adapter: Adapter
    move: Callable[[], AdapterRef]
    old: AdapterRef | None
    mode: Mode = "drain"
    load: bool = True
    progress: Progress | None = None
    also: tuple[AdapterRef, ...] = ()

    def tell(self, stage: str) -> None:
        """Say what begins now."""
        if self.progress is not None:
            self.progress(stage, 0.0)


class Replacer:
    """Carries out plans. The caller sees to it that one name has one plan at a time."""

    def __init__(
        self,
        registry: Registry,
        engine: Engine,
        residency: Residency,
        names: Names,
        pins: Pins,
        metrics: Metrics,
        clock: Callable[[], float],
    ) -> None:
        self._registry = registry
        self._engine = engine
        self._residency = residency
        self._names = names
        self._pins = pins
        self._metrics = metrics
        self._clock = clock

    async def carry_out(self, plan: Plan) -> Change:
        """Replace what a name means.

        Raises:
            Overloaded: there was no room in time for the new weights; the hint names the setting to raise.
            AdapterTooLarge: there can be none beside what is pinned.
            EngineFailed: the new weights do not answer; or, as the message says, running requests were not switched.
            AdapterDamaged: the new weights are gone from the store, or differ.
            RegistryFailed: the change could not be written.
        """
        self._residency.require(plan.adapter)
        await to_the_end(self._prepare(plan))
        if not plan.load and plan.mode == "drain":
            plan.tell(EFFECT)
            return await to_the_end(self._move_over(plan))
        started = self._clock()
        digest = plan.adapter.digest
        fresh = not self._residency.known(digest)
        moved_over = False
        lease = None
        try:
            plan.tell("load")
            lease = await self._residency.acquire(digest, name=plan.name, adapter=plan.adapter)
            plan.tell("warm")
            await self._warm(digest)
            seconds = self._clock() - started
            moved_over = True
            plan.tell(EFFECT)
            change = await to_the_end(self._move_over(plan))
        except BaseException:
            if fresh and not (moved_over and await self._is_meant(digest)):
                self._residency.retire(digest)
            raise
        finally:
            if lease is not None:
                lease.release()
        return replace(change, load_seconds=seconds)

    async def try_out(self, name: str, digest: str) -> None:
        """Make weights resident and let them say one token, before a name is given to them.

        Raises:
            Overloaded, EngineFailed, AdapterDamaged: as for `carry_out`; what was not there before leaves the engine.
        """
        fresh = not self._residency.known(digest)
        try:
            lease = await self._residency.acquire(digest, name=name)
            try:
                await self._warm(digest)
            finally:
                lease.release()
        except BaseException:
            if fresh:
                await to_the_end(self.let_go(digest))
            raise

    async def change(self, work: Callable[[], object], name: str = "", gone: Sequence[str] = ()) -> None:
        """Do `work` on the registry, then let go of weights that nothing means any more. Not cut short by a cancel.

        Args:
            work: the change; runs in a thread.
            name: whose forms may mean other versions afterwards; its pins follow them.
            gone: digests that the change may have taken the meaning from.

        Raises:
            LoradexError: whatever `work` raises.
        """

        async def all_of_it() -> None:
            try:
                await asyncio.to_thread(work)
            finally:
                self._names.forget()
            if name:
                self._pins.follow(name, await asyncio.to_thread(self._record, name))
            for digest in gone:
                await self.let_go(digest)

        await to_the_end(all_of_it())

    async def let_go(self, digest: str) -> None:
        """Free weights once nobody holds them, unless some name still means them or they are pinned."""
        if digest not in self._pins and not await self._is_meant(digest):
            self._residency.retire(digest)

    async def _prepare(self, plan: Plan) -> None:
        try:
            await self._engine.prepare(plan.adapter, plan.progress)
        except LoradexError as error:
            log.warning("%s was not prepared, so its first load takes longer: %s", plan.adapter.digest[:12], error)

    async def _warm(self, digest: str) -> None:
        tokens = self._engine.encode("Hello", Mix.of(digest)) or (0,)
        request = GenerateRequest(f"warm-{uuid.uuid4().hex}", tokens, _ONE_TOKEN, Mix.of(digest))
        async with closing(self._engine.generate(request)) as events:
            async for event in events:
                if isinstance(event, Finished) and event.reason == "abort":
                    raise EngineFailed(f"The engine gave no answer under the new weights {digest[:12]}")

    async def _move_over(self, plan: Plan) -> Change:
        started = self._clock()
        try:
            ref, record = await asyncio.to_thread(self._move, plan)
        finally:
            self._names.forget()
        seconds = self._clock() - started
        self._residency.keep(ref.digest)
        if record is not None:
            self._pins.follow(plan.name, record)
        change = Change(ref=ref, previous=plan.old, switch_seconds=seconds)
        before = (*((plan.old,) if plan.old is not None else ()), *plan.also)
        gone = {old.digest: old for old in before if old.digest != ref.digest}
        if not gone:
            return change
        try:
            if plan.mode == "immediate":
                for old in gone.values():
                    change = replace(change, moved=change.moved + await self._switch(old, ref, record))
        finally:
            for digest in gone:
                await self.let_go(digest)
        self._metrics.replaced(plan.mode)
        return change

    def _move(self, plan: Plan) -> tuple[AdapterRef, AdapterRecord | None]:
        """Make the change, and read what all forms of the name mean after it. Blocks."""
        ref = plan.move()
        with suppress(RegistryFailed):
            return ref, self._registry.get(plan.name, self._engine.info.digest)
        return ref, None  # then nobody can be said to follow

    def _record(self, name: str) -> AdapterRecord | None:
        try:
            return self._registry.get(name, self._engine.info.digest)
        except AdapterNotFound:
            return None

    async def _switch(self, old: AdapterRef, new: AdapterRef, record: AdapterRecord | None) -> int:
        try:
            return await self._residency.move(old.digest, new, partial(_means, record, new.digest))
        except LoradexError as error:
            raise EngineFailed(
                f"New requests get `{new}`, but running ones could not be switched and finish on `{old}`: "
                f"{error.message}",
                hint=f"Nothing is lost: wait for them, or go back with `loradex adapter rollback {new.name}`",
            ) from error

    async def _is_meant(self, digest: str) -> bool:
        """Return whether the bare form, an alias, a canary or a shadow of an enabled name means these weights.

        A registry that cannot be read counts as no: weights that were freed too early are loaded again on demand.
        """
        try:
            records = await asyncio.to_thread(self._registry.list, self._engine.info.digest)
        except RegistryFailed:
            return False
        for record in records:
            numbers = {record.current, *record.aliases.values(), *record.canary} if record.enabled else set()
            numbers |= {record.shadow.version} if record.enabled and record.shadow else set()
            if any(version.version in numbers and version.digest == digest for version in record.versions):
                return True
        return False


def _means(record: AdapterRecord | None, digest: str, reference: Reference) -> bool:
    """Return whether a reference means these weights, by the record of the only name that has changed."""
    if record is None or reference.name != record.name:
        return False
    with suppress(AdapterNotFound):
        return select(record, reference).digest == digest
    return False
