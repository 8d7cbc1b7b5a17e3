"""From what a client writes into `model` to the version that answers."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from weakref import WeakValueDictionary

from loradex.core import canary
from loradex.core.adapter import BASE, AdapterRef, Reference
from loradex.core.mix import Mix, parse_mix
from loradex.core.model import ModelInfo
from loradex.errors import AdapterNotFound, InvalidRequest, ModelNotFound, near
from loradex.registry.records import AdapterRecord, Meaning
from loradex.registry.registry import Registry

FRESH_SECONDS = 1.0
"""How long another process's change of the registry may stay unseen. Our own changes are seen at once."""


class Names:
    """Resolves names for one base model, and remembers what they mean so that a request needs no query.

    Memory is dropped by `forget`, which every verb calls after its change, and after `FRESH_SECONDS`, since another
    process may share the registry.
    """

    def __init__(self, registry: Registry, info: Callable[[], ModelInfo], clock: Callable[[], float]) -> None:
        self._registry = registry
        self._info = info
        self._clock = clock
        self._meanings: dict[str, Meaning] = {}
        self._keyless = itertools.count()
        # Weak, so that made-up names cannot fill the memory: a lock lives while a verb holds or awaits it.
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._records: list[AdapterRecord] | None = None
        self._since = clock()
        self._generation = 0

    @property
    def base_names(self) -> frozenset[str]:
        """The names that mean the base model: `base`, its served name and its path."""
        info = self._info()
        return frozenset((BASE, info.id, info.path))

    def alone(self, name: str) -> asyncio.Lock:
        """Return the lock that lets one verb at a time change a name."""
        return self._locks.setdefault(name, asyncio.Lock())

    def forget(self) -> None:
        """Drop what is remembered. What a query under way brings back is not remembered either."""
        self._meanings.clear()
        self._records = None
        self._since = self._clock()
        self._generation += 1

    async def pick(self, reference: Reference, key: str = "", *, again: bool = False) -> AdapterRef:
        """Return the version that answers to a reference; `again` as for `meaning`.

        While a canary runs, requests with one `key` get one version, and those without any are spread evenly.

        Raises:
            ModelNotFound: it means nothing here; the message has names that look like it.
        """
        try:
            meaning = await self.meaning(reference, again=again)
        except AdapterNotFound as error:
            records = self._records
            if records is None:
                records = await asyncio.to_thread(self._registry.list, self._info().digest)
            raise self._unknown(str(reference), records) from error
        if not meaning.shares:
            return meaning.ref
        at = canary.point(reference.name, key) if key else canary.spread(next(self._keyless))
        return meaning.refs[canary.choose(meaning.shares, at)]

    def asked(self, model: str | None) -> Mix[Reference]:
        """Return the references in `model`, none for the base. A full name wins over `base:reference`.

        After the base's name, Ray's `suffix:id` is `suffix@id`.

        Raises:
            InvalidRequest: it looks like a mix, and is none.
            ModelNotFound: it follows no form.
        """
        if not model or model in self.base_names:
            return Mix()
        for base in sorted(self.base_names, key=len, reverse=True):
            if model.startswith(f"{base}:"):
                model = model[len(base) + 1 :].replace(":", "@", 1)
                break
        try:
            return parse_mix(model)
        except InvalidRequest as error:
            if set("+*") & set(model):
                raise
            raise self._unknown(model, self._records or []) from error

    async def resolve(self, reference: Reference, *, again: bool = False) -> AdapterRef:
        """Return the version that a reference means for this base, beside a canary. Raises what `meaning` does."""
        return (await self.meaning(reference, again=again)).ref

    async def meaning(self, reference: Reference, *, again: bool = False) -> Meaning:
        """Return what a reference means for this base.

        Args:
            reference: what to look up.
            again: ask the registry even if the answer is remembered.

        Raises:
            AdapterNotFound: there is no such name, version or alias, or the name is disabled.
            RegistryFailed: the registry cannot be read.
        """
        if self._clock() - self._since > FRESH_SECONDS:
            self.forget()
        key = str(reference)
        found = None if again else self._meanings.get(key)
        if found is None:
            generation = self._generation
            found = await asyncio.to_thread(self._registry.meaning, reference, self._info().digest)
            if generation == self._generation:
                self._meanings[key] = found
        return found

    def known(self, reference: Reference) -> Meaning | None:
        """Return what is remembered of a reference."""
        return self._meanings.get(str(reference))

    def records(self) -> list[AdapterRecord]:
        """Return every adapter that has versions for this base, by name. Reads the registry where need be."""
        if self._clock() - self._since > FRESH_SECONDS:
            self.forget()
        records, generation = self._records, self._generation
        if records is None:
            records = self._registry.list(self._info().digest)
            if generation == self._generation:
                self._records = records
        return records

    def _unknown(self, model: str, records: list[AdapterRecord]) -> ModelNotFound:
        names = [record.name for record in records if record.enabled]
        close = near(model.partition("@")[0], [*names, self._info().id, BASE])
        hint = f"Did you mean {' or '.join(f'`{name}`' for name in close)}?" if close else None
        return ModelNotFound(f"The model `{model}` does not exist", hint=hint, param="model")
