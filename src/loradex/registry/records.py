"""What the registry tells: frozen records, without a trace of the store behind them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from loradex.adapters.adapter import Adapter
from loradex.adapters.check import CheckReport
from loradex.core.adapter import AdapterRef
from loradex.core.canary import Shares
from loradex.core.defaults import NO_DEFAULTS, Defaults
from loradex.core.model import ModelInfo


@dataclass(frozen=True, slots=True)
class VersionRecord:
    """One immutable version of a name.

    Attributes:
        version: its number, from 1 upwards; never given twice under one name.
        digest: SHA-256 of its content, in hexadecimal.
        source: where it was read from.
        base_digest, base_name: the base model that it was checked against.
        rank: the largest rank in it.
        modules: the kinds of linears it adapts, such as `q_proj`.
        parameters: number of weights.
        bytes: size of the weights file.
        created_at: when it was registered, in UTC.
        config: its `adapter_config.json`.
        defaults: what requests may leave out; alone of all this it can be changed.
    """

    version: int
    digest: str
    source: str
    base_digest: str
    base_name: str
    rank: int
    modules: tuple[str, ...]
    parameters: int
    bytes: int
    created_at: datetime
    config: Mapping[str, Any]
    defaults: Defaults = NO_DEFAULTS


@dataclass(frozen=True, slots=True)
class Shadow:
    """The version that gets a copy of `percent` of the requests for the bare name; its answers are only recorded."""

    version: int
    percent: float


@dataclass(frozen=True, slots=True)
class AdapterRecord:
    """A name with its versions (oldest first) and aliases.

    `current` is the version that the bare name means: the alias `default` where there is one, else the newest. While a
    canary runs, `canary` says in percent which versions answer requests for the bare name; else it is empty.
    """

    name: str
    enabled: bool
    created_at: datetime
    versions: tuple[VersionRecord, ...]
    aliases: Mapping[str, int]
    current: int | None
    canary: Shares = field(default_factory=dict)
    shadow: Shadow | None = None

    def version(self, number: int) -> VersionRecord | None:
        """Return the version of that number, or None."""
        return next((version for version in self.versions if version.version == number), None)


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """One change of a name.

    Attributes:
        at: when, in UTC.
        actor: who; empty where nobody said.
        action: `add`, `promote`, `rollback`, `canary`, `end_canary`, `shadow`, `end_shadow`, `set` (of defaults),
            `remove_alias`, `remove`, `enable` or `disable`.
        alias: the alias that moved, None where none did.
        from_version, to_version: what moved from where to where; None stands for nothing.
        note: why or how, such as the shares of a canary; empty where there is nothing to say.
    """

    at: datetime
    actor: str
    action: str
    alias: str | None
    from_version: int | None
    to_version: int | None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a reference means: `ref`, and under a bare name how its requests are spread.

    Attributes:
        ref: the version.
        shares: while a canary runs, percent of the requests by version; else empty.
        shadow: where copies of the requests go, if anywhere.
        refs: the versions that `shares` and `shadow` name.
    """

    ref: AdapterRef
    shares: Shares = field(default_factory=dict)
    shadow: Shadow | None = None
    refs: Mapping[int, AdapterRef] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Staged:
    """An adapter that is checked and stored, but not yet registered under any name.

    `adapter.path` is its folder in the store, `note` says from what it was converted, if it was. `defaults` are those
    that its version gets; None for those of the version that the name means. Hand it to `Registry.commit`, or to
    `Registry.discard`.
    """

    adapter: Adapter
    report: CheckReport
    source: str
    base: ModelInfo
    config: Mapping[str, Any]
    note: str = ""
    defaults: Defaults | None = None
