"""The verbs of `loradex adapter` without a server: in this process, on the registry."""

from __future__ import annotations

import builtins
import getpass
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loradex.adapters.summary import kinds
from loradex.cli.base import named_base, own_base
from loradex.client.views import (
    AdapterView,
    Change,
    HistoryEntry,
    InvalidView,
    KindView,
    Pinned,
    Report,
    Shadow,
    VersionView,
)
from loradex.core.adapter import DEFAULT_ALIAS, AdapterRef
from loradex.core.defaults import Defaults
from loradex.errors import AdapterNotFound, ConfigInvalid, Conflict
from loradex.registry.registry import AdapterRecord, Registry
from loradex.registry.taking_in import take_in
from loradex.settings import Settings

if TYPE_CHECKING:
    from loradex.core.model import ModelInfo
    from loradex.engine.base import Progress


class Offline:
    """Works on the registry in `settings.home`; nothing is loaded anywhere.

    Args:
        settings: where the registry is, and the largest rank.
        base: folder of the base model, against which `add` and `check` test; without it, the one that the adapter's
            own configuration names is taken where that is a folder here.
        progress: told how far a download is.

    Raises:
        RegistryFailed: from every method, when the store cannot be read or written.
    """

    def __init__(self, settings: Settings, base: Path | None, progress: Progress | None = None) -> None:
        self._registry = Registry(settings.home)
        self._rank = settings.engine.max_lora_rank
        self._base = base
        self._limit = settings.max_adapter_size
        self._progress = progress

    def list(self) -> builtins.list[AdapterView]:
        """Return every adapter."""
        return [_view(record) for record in self._registry.list()]

    def invalid(self) -> builtins.list[InvalidView]:
        """Return nothing: only a server watches folders."""
        return []

    def get(self, name: str) -> AdapterView:
        """Return one adapter. Raises AdapterNotFound."""
        return _view(self._registry.get(name))

    def add(
        self,
        name: str,
        path: Path | str,
        *,
        mode: str = "drain",
        replace: bool = True,
        allow_pickle: bool = False,
        canary: float | None = None,
        sha256: str = "",
        defaults: Mapping[str, Any] | None = None,
        told: Progress | None = None,
    ) -> Change:
        """Check and register a version. `mode` has no meaning here: nothing runs.

        Raises:
            AdapterInvalid: it does not fit the base.
            Conflict: the name is taken and `replace` is false.
            ConfigInvalid: no base model is named or found.
        """
        before = self._current(name)
        if before is not None and not replace:
            raise Conflict(f"The adapter `{name}` exists", hint="Leave out `--no-replace` to add a new version")
        ref = take_in(
            self._registry,
            name,
            str(path),
            self._read_base,
            max_rank=self._rank,
            limit=self._limit,
            allow_pickle=allow_pickle,
            sha256=sha256,
            defaults=Defaults.read(defaults) if defaults is not None else None,
            canary=canary,
            actor=_actor(),
            told=told or self._progress,
        )
        return _change(ref, before)

    def check(self, path: Path | str, *, allow_pickle: bool = False) -> Report:
        """Check the adapter at `path` against the base; nothing is registered."""
        with self._registry.fetched(str(path), self._limit, told=self._progress) as source:
            base = self._read_base(source.path)
            found = self._registry.check(source.path, base, max_rank=self._rank, allow_pickle=allow_pickle)
        layers = found.adapter.layers if found.adapter is not None else {}
        return Report(
            ok=found.ok,
            format=found.format,
            digest=found.digest,
            rank=found.rank,
            modules=found.modules,
            kinds=tuple(KindView(**asdict(each)) for each in kinds(layers)),
            parameters=found.parameters,
            bytes=found.bytes,
            device_bytes=found.parameters * (4 if base.dtype == "float32" else 2),
            base_model=found.base_model,
            problems=found.problems,
            warnings=tuple(str(each) for each in found.warnings),
        )

    def promote(self, name: str, version: int, alias: str = DEFAULT_ALIAS, *, mode: str = "drain") -> Change:
        """Point an alias at a version."""
        before = self._current(name)
        return _change(self._registry.promote(name, version, alias, actor=_actor()), before)

    def remove_alias(self, name: str, alias: str) -> None:
        """Remove an alias; the versions stay."""
        self._registry.remove_alias(name, alias, actor=_actor())

    def rollback(self, name: str, *, mode: str = "drain") -> Change:
        """Go back to the version that the name meant before the last change."""
        before = self._current(name)
        return _change(self._registry.rollback(name, actor=_actor()), before)

    def canary(self, name: str, shares: Mapping[int, float]) -> AdapterView:
        """Let versions share the requests for the bare name; what is missing to 100 percent stays where it is."""
        return _view(self._registry.canary(name, shares, actor=_actor()))

    def end_canary(self, name: str) -> AdapterView:
        """Give all requests back to the version that the name means. Raises AdapterNotFound where no canary runs."""
        self._registry.end_canary(name, actor=_actor())
        return self.get(name)

    def shadow(self, name: str, version: int, percent: float = 100.0) -> AdapterView:
        """Let a version get a copy of part of the requests for the bare name, once a server runs."""
        self._registry.shadow(name, version, percent, actor=_actor())
        return self.get(name)

    def end_shadow(self, name: str) -> AdapterView:
        """End the copies. Raises AdapterNotFound where the name has no shadow."""
        self._registry.end_shadow(name, actor=_actor())
        return self.get(name)

    def configure(self, name: str, defaults: Mapping[str, Any], version: int | None = None) -> AdapterView:
        """Set what requests for a version may leave out. A chat template is rendered when a server answers with it."""
        self._registry.configure(name, version, Defaults.read(defaults), actor=_actor())
        return self.get(name)

    def remove(self, name: str, version: int | None = None) -> None:
        """Remove an adapter, or one version of it."""
        self._registry.remove(name, version, actor=_actor())

    def history(self, name: str) -> builtins.list[HistoryEntry]:
        """Return every change of an adapter, newest first."""
        return [
            HistoryEntry(
                each.at.isoformat(),
                each.actor,
                each.action,
                each.alias,
                each.from_version,
                each.to_version,
                each.note,
            )
            for each in reversed(self._registry.history(name))
        ]

    def _current(self, name: str) -> AdapterRef | None:
        try:
            return self._registry.resolve(name)
        except AdapterNotFound:
            return None

    def _read_base(self, adapter: Path) -> ModelInfo:
        from loradex.adapters.base_model import read_model_info

        folder = self._base or own_base(adapter)
        if folder is None:
            named = named_base(adapter) or "none"
            raise ConfigInvalid(
                f"No base model to check `{adapter}` against: its configuration names {named}, no folder here",
                hint="Name its folder with `--base DIR`, or start a server: `loradex serve MODEL`",
            )
        return read_model_info(folder)


def _view(record: AdapterRecord) -> AdapterView:
    versions = tuple(
        VersionView(
            version=each.version,
            digest=each.digest,
            source=each.source,
            base_name=each.base_name,
            rank=each.rank,
            modules=tuple(each.modules),
            parameters=each.parameters,
            bytes=each.bytes,
            created_at=each.created_at.isoformat(),
            config=dict(each.config),
            defaults=each.defaults.written(),
        )
        for each in record.versions
    )
    created = record.created_at.isoformat()
    aliases, canary = dict(record.aliases), dict(record.canary)
    shadow = Shadow(record.shadow.version, record.shadow.percent) if record.shadow else None
    return AdapterView(record.name, record.enabled, record.current, created, aliases, versions, canary, shadow)


def _change(ref: AdapterRef, before: AdapterRef | None) -> Change:
    previous = None if before is None or before.digest == ref.digest else Pinned(before.version, before.digest)
    return Change(ref.name, ref.version, ref.digest, previous)


def _actor() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container may run under a number without a name
        return ""
