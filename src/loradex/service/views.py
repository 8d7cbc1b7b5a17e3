"""What the service tells of models and adapters, as frozen values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from loradex.adapters.check import CheckReport
from loradex.core.adapter import AdapterRef
from loradex.core.canary import Shares
from loradex.registry.records import AdapterRecord, Shadow, VersionRecord
from loradex.service.traffic import NO_TRAFFIC, Traffic
from loradex.service.usage import UNUSED, Usage


@dataclass(frozen=True, slots=True)
class ModelCard:
    """A name that clients may put into `model`.

    Attributes:
        id: the name.
        root: path of the base model, or the source of the version that answers now.
        parent: name of the base model; None for the base itself.
        created: Unix time, in seconds.
        max_model_len: tokens of prompt and answer together; None for adapters, which share the base's.
        ref: the version that answers now; None for the base.
    """

    id: str
    root: str
    parent: str | None
    created: int
    max_model_len: int | None
    ref: AdapterRef | None


@dataclass(frozen=True, slots=True)
class VersionState:
    """One version, and where its weights are now.

    Attributes:
        record: what the registry knows of it.
        tier: `device` when the engine can use it at its next step, `host` when a copy is in host memory, else `disk`.
        slot: where the engine holds it, None when it is not resident.
        leases: answers that hold it now.
        running, waiting: requests under it in the engine, and requests queued there or here for a slot.
        device_bytes: what it takes in the engine; 0 when it is not resident.
        host_bytes: what its copy in host memory takes; 0 where there is none.
        idle_seconds: since it was last leased or freed; None when it is not resident.
        pinned: whether it stays resident until it is unpinned.
        usage: leases, loads and evictions since the start, of the content under all its names.
        traffic: requests, errors and tokens since the start, under this name.
    """

    record: VersionRecord
    tier: Literal["device", "host", "disk"] = "disk"
    slot: int | None = None
    leases: int = 0
    running: int = 0
    waiting: int = 0
    device_bytes: int = 0
    host_bytes: int = 0
    idle_seconds: float | None = None
    pinned: bool = False
    usage: Usage = UNUSED
    traffic: Traffic = NO_TRAFFIC

    @property
    def resident(self) -> bool:
        """Whether the engine can use it at its next step."""
        return self.tier == "device"


@dataclass(frozen=True, slots=True)
class AdapterView:
    """A name as the registry knows it, with the state of each of its versions (oldest first)."""

    record: AdapterRecord
    versions: tuple[VersionState, ...]

    @property
    def name(self) -> str:
        """The adapter's name."""
        return self.record.name

    @property
    def enabled(self) -> bool:
        """Whether requests may use the name."""
        return self.record.enabled

    @property
    def created_at(self) -> datetime:
        """When the name was first registered, in UTC."""
        return self.record.created_at

    @property
    def aliases(self) -> Mapping[str, int]:
        """Aliases and the versions that they point to."""
        return self.record.aliases

    @property
    def current(self) -> int | None:
        """The version that the bare name means; None where there is none."""
        return self.record.current

    @property
    def canary(self) -> Shares:
        """Percent of the requests for the bare name by version while a canary runs; else empty."""
        return self.record.canary

    @property
    def shadow(self) -> Shadow | None:
        """The version that gets copies of the requests, None where there is none."""
        return self.record.shadow


@dataclass(frozen=True, slots=True)
class Checked:
    """What a check found, and what serving the adapter would take.

    Attributes:
        report: of its files.
        device_bytes: what it would take in the engine.
        load_seconds: how long a load would take at the rate of all loads so far; None before the first.
    """

    report: CheckReport
    device_bytes: int
    load_seconds: float | None


@dataclass(frozen=True, slots=True)
class Change:
    """What a verb did.

    Attributes:
        ref: the version that the name means now.
        previous: the version that it meant before; None for a new name.
        stage_seconds: reading, checking and storing the files.
        load_seconds: waiting for a slot, making the weights resident and a first token under them.
        switch_seconds: the move itself, as new requests see it.
        moved: running requests that went over to the new version (`immediate` only).
    """

    ref: AdapterRef
    previous: AdapterRef | None = None
    stage_seconds: float = 0.0
    load_seconds: float = 0.0
    switch_seconds: float = 0.0
    moved: int = 0
