"""Adapters that stay in the engine, whatever else is asked for, until they are unpinned."""

from __future__ import annotations

from contextlib import suppress

from loradex.core.adapter import Reference
from loradex.errors import AdapterNotFound
from loradex.registry.records import AdapterRecord
from loradex.registry.selecting import select


class Pins:
    """What was pinned, and the digests that it means now: a pinned name stays pinned when it gets a new version."""

    def __init__(self) -> None:
        self._digests: dict[Reference, str] = {}

    def __contains__(self, digest: object) -> bool:
        return digest in self._digests.values()

    def add(self, reference: Reference, digest: str) -> None:
        """Pin what a reference means."""
        self._digests[reference] = digest

    def remove(self, reference: Reference) -> str | None:
        """Unpin what was pinned as this reference; return its digest, None where nothing was."""
        return self._digests.pop(reference, None)

    def of(self, digest: str) -> list[Reference]:
        """Return what pins these weights."""
        return [reference for reference, pinned in self._digests.items() if pinned == digest]

    def follow(self, name: str, record: AdapterRecord | None) -> None:
        """Take note of a change of a name; None where it is gone. What means nothing any more is unpinned."""
        for reference in [each for each in self._digests if each.name == name]:
            del self._digests[reference]
            if record is not None:
                with suppress(AdapterNotFound):
                    self._digests[reference] = select(record, reference).digest
