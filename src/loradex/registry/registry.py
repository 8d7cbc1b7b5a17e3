"""Names, versions, aliases and history of adapters."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from loradex.adapters.adapter import Adapter
from loradex.adapters.check import CheckReport
from loradex.core.adapter import DEFAULT_ALIAS, AdapterRef, Reference
from loradex.core.model import ModelInfo
from loradex.registry.records import AdapterRecord, HistoryEntry, Staged, VersionRecord

__all__ = ["AdapterRecord", "HistoryEntry", "Registry", "Staged", "VersionRecord"]


class Registry:
    """Signatures first; the bodies follow in the next commit."""

    def __init__(self, home: Path, *, busy_seconds: float = 10.0) -> None:
        raise NotImplementedError

    def close(self) -> None:
        """Close the store."""
        raise NotImplementedError

    def check(
        self,
        folder: Path,
        base: ModelInfo,
        *,
        max_rank: int,
        allow_pickle: bool = False,
        allowed: Sequence[Path] | None = None,
        strict_base: bool = False,
    ) -> CheckReport:
        """Read and check without storing anything; never raises AdapterInvalid: the report has the problems."""
        raise NotImplementedError

    def stage(
        self,
        folder: Path,
        base: ModelInfo,
        *,
        max_rank: int,
        allow_pickle: bool = False,
        allowed: Sequence[Path] | None = None,
        strict_base: bool = False,
    ) -> Staged:
        """Read, check and store; nothing is registered."""
        raise NotImplementedError

    def discard(self, staged: Staged) -> None:
        """Remove the stored files of what will not be committed, unless a version refers to them."""
        raise NotImplementedError

    def commit(self, name: str, staged: Staged, *, actor: str = "", serve: bool = False) -> AdapterRef:
        """Register what was staged, in one transaction."""
        raise NotImplementedError

    def resolve(self, reference: Reference | str, base: str | None = None) -> AdapterRef:
        """Return the version that a reference means."""
        raise NotImplementedError

    def adapter(self, digest: str, *, verify: bool = True) -> Adapter:
        """Return the stored adapter."""
        raise NotImplementedError

    def get(self, name: str, base: str | None = None) -> AdapterRecord:
        """Return all that is known of a name, disabled or not."""
        raise NotImplementedError

    def list(self, base: str | None = None) -> list[AdapterRecord]:
        """Return every name, disabled ones too; with `base`, only those with versions for it."""
        raise NotImplementedError

    def promote(self, name: str, version: int, alias: str = DEFAULT_ALIAS, *, actor: str = "") -> AdapterRef:
        """Point an alias at a version."""
        raise NotImplementedError

    def remove_alias(self, name: str, alias: str, *, actor: str = "") -> None:
        """Remove an alias."""
        raise NotImplementedError

    def previous(self, name: str, base: str | None = None) -> AdapterRef:
        """Return what a bare name meant before the last change of its meaning."""
        raise NotImplementedError

    def rollback(self, name: str, *, actor: str = "", base: str | None = None) -> AdapterRef:
        """Point `default` at what the bare name meant before."""
        raise NotImplementedError

    def enable(self, name: str, enabled: bool, *, actor: str = "") -> None:
        """Show or hide a name."""
        raise NotImplementedError

    def remove(self, name: str, version: int | None = None, *, actor: str = "") -> None:
        """Remove a version, or the whole name."""
        raise NotImplementedError

    def history(self, name: str) -> list[HistoryEntry]:
        """Return every change of a name, oldest first."""
        raise NotImplementedError
