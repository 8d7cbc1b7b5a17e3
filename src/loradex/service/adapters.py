"""The verbs on adapters."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from loradex.adapters.check import CheckReport
from loradex.registry.records import HistoryEntry
from loradex.service.views import AdapterView, Change

Mode = Literal["drain", "immediate"]


class Adapters:
    """Add, replace, promote, roll back, load and unload adapters. One change of a name at a time."""

    async def add(
        self,
        name: str,
        path: Path,
        *,
        mode: Mode = "drain",
        replace: bool = True,
        load: bool = True,
        trusted: bool = False,
        allow_pickle: bool = False,
        actor: str = "",
    ) -> Change:
        """Register the adapter at `path` under `name`, as its next version, and let new requests use it."""
        raise NotImplementedError

    async def check(self, path: Path, *, trusted: bool = False, allow_pickle: bool = False) -> CheckReport:
        """Read and check the adapter at `path` without storing anything."""
        raise NotImplementedError

    async def list(self) -> list[AdapterView]:
        """Return every name that has versions for this base, disabled ones too."""
        raise NotImplementedError

    async def get(self, name: str) -> AdapterView:
        """Return all that is known of a name; AdapterNotFound."""
        raise NotImplementedError

    async def history(self, name: str) -> Sequence[HistoryEntry]:
        """Return every change of a name, oldest first."""
        raise NotImplementedError

    async def promote(
        self, name: str, version: int, alias: str = "default", *, mode: Mode = "drain", actor: str = ""
    ) -> Change:
        """Point an alias at a version; `default` is what the bare name means."""
        raise NotImplementedError

    async def rollback(self, name: str, *, mode: Mode = "drain", actor: str = "") -> Change:
        """Let the bare name mean what it meant before."""
        raise NotImplementedError

    async def remove_alias(self, name: str, alias: str, *, actor: str = "") -> None:
        """Remove an alias."""
        raise NotImplementedError

    async def remove(self, name: str, version: int | None = None, *, actor: str = "") -> None:
        """Remove a version, or the whole name. Running answers finish."""
        raise NotImplementedError

    async def load(self, reference: str) -> Change:
        """Make the version that `reference` means resident."""
        raise NotImplementedError

    async def unload(self, reference: str, *, disable: bool = False, actor: str = "") -> AdapterView:
        """Free the weights as soon as no answer uses them: of every version for a bare name, else of that one.

        `disable` also takes the name out of the model list (vLLM's unload); `add` brings it back.
        """
        raise NotImplementedError
