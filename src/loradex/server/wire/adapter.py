"""Bodies of our own routes under `/api`."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, Field

from loradex.adapters.check import CheckReport
from loradex.registry.records import HistoryEntry
from loradex.server.body import Body, Whole
from loradex.server.wire.error import ProblemBody
from loradex.service.views import AdapterView, Change, VersionState


def _folder(value: str) -> str:
    if "\0" in value or not value:
        raise ValueError("a path is neither empty nor holds a null character")
    return value


FolderPath = Annotated[str, Field(max_length=4096), AfterValidator(_folder)]
"""A path on the server's machine."""

Mode = Literal["drain", "immediate"]
"""What happens to running answers: they finish on the version they began with, or switch at their next token."""

VersionNumber = Annotated[Whole, Field(ge=1, le=2**31 - 1)]


class AddBody(Body):
    """Register the adapter at `path` as the next version of `name`, and serve it."""

    name: str
    path: FolderPath
    mode: Mode = "drain"
    replace: bool = True
    allow_pickle: bool = False

    @property
    def folder(self) -> Path:
        """The path."""
        return Path(self.path)


class CheckBody(Body):
    """Check the adapter at `path` without registering it."""

    path: FolderPath


class PromoteBody(Body):
    """Point an alias at a version."""

    version: VersionNumber
    mode: Mode = "drain"


class RollbackBody(Body):
    """Go back to what the name meant before."""

    mode: Mode = "drain"


class LoadBody(Body):
    """Make resident what a reference means."""

    adapter: str


class Pinned(BaseModel):
    """A version by number and digest."""

    version: int
    digest: str


class ChangeReply(BaseModel):
    """What a change did; times in seconds."""

    name: str
    version: int
    digest: str
    previous: Pinned | None
    stage_seconds: float
    load_seconds: float
    switch_seconds: float
    moved: int

    @classmethod
    def of(cls, change: Change) -> ChangeReply:
        """Return the reply for a change."""
        before = change.previous
        return cls(
            name=change.ref.name,
            version=change.ref.version,
            digest=change.ref.digest,
            previous=Pinned(version=before.version, digest=before.digest) if before else None,
            stage_seconds=change.stage_seconds,
            load_seconds=change.load_seconds,
            switch_seconds=change.switch_seconds,
            moved=change.moved,
        )


class VersionReply(BaseModel):
    """One immutable version."""

    version: int
    digest: str
    source: str
    base_name: str
    rank: int
    modules: list[str]
    parameters: int
    bytes: int
    created_at: datetime
    resident: bool
    slot: int | None
    leases: int
    running: int
    waiting: int

    @classmethod
    def of(cls, state: VersionState) -> VersionReply:
        """Return the reply for a version."""
        record = state.record
        return cls(
            version=record.version,
            digest=record.digest,
            source=record.source,
            base_name=record.base_name,
            rank=record.rank,
            modules=list(record.modules),
            parameters=record.parameters,
            bytes=record.bytes,
            created_at=record.created_at,
            resident=state.resident,
            slot=state.slot,
            leases=state.leases,
            running=state.running,
            waiting=state.waiting,
        )


class AdapterReply(BaseModel):
    """A name, its aliases and its versions, oldest first. `current` is what the bare name means."""

    name: str
    enabled: bool
    current: int | None
    created_at: datetime
    aliases: dict[str, int]
    versions: list[VersionReply]

    @classmethod
    def of(cls, view: AdapterView) -> AdapterReply:
        """Return the reply for an adapter."""
        return cls(
            name=view.name,
            enabled=view.enabled,
            current=view.current,
            created_at=view.created_at,
            aliases=dict(view.aliases),
            versions=[VersionReply.of(version) for version in view.versions],
        )


class AdapterListReply(BaseModel):
    """Every adapter for this base."""

    adapters: list[AdapterReply]


class ReportReply(BaseModel):
    """What a check found."""

    ok: bool
    digest: str
    rank: int
    modules: list[str]
    parameters: int
    bytes: int
    base_model: str | None
    problems: list[ProblemBody]
    warnings: list[str]

    @classmethod
    def of(cls, report: CheckReport) -> ReportReply:
        """Return the reply for a report."""
        return cls(
            ok=report.ok,
            digest=report.digest,
            rank=report.rank,
            modules=list(report.modules),
            parameters=report.parameters,
            bytes=report.bytes,
            base_model=report.base_model,
            problems=[ProblemBody(code=each.code, what=each.what, fix=each.fix) for each in report.problems],
            warnings=[str(each) for each in report.warnings],
        )


class HistoryRow(BaseModel):
    """One change of a name."""

    when: datetime
    who: str
    action: str
    alias: str | None
    from_version: int | None
    to_version: int | None

    @classmethod
    def of(cls, entry: HistoryEntry) -> HistoryRow:
        """Return the row for a change."""
        return cls(
            when=entry.at,
            who=entry.actor,
            action=entry.action,
            alias=entry.alias,
            from_version=entry.from_version,
            to_version=entry.to_version,
        )


class HistoryReply(BaseModel):
    """Every change of a name, newest first."""

    history: list[HistoryRow]


class RemovedReply(BaseModel):
    """What was removed; `version` is null for the whole name."""

    name: str
    version: int | None
    removed: bool = True


class ResidentRow(BaseModel):
    """A version that the engine can use at its next step."""

    name: str
    version: int
    digest: str
    slot: int | None
    bytes: int
    leases: int
    running: int
    waiting: int
    last_used: datetime | None

    @classmethod
    def of(cls, name: str, state: VersionState) -> ResidentRow:
        """Return the row for a resident version."""
        idle = state.idle_seconds
        return cls(
            name=name,
            version=state.record.version,
            digest=state.record.digest,
            slot=state.slot,
            bytes=state.device_bytes,
            leases=state.leases,
            running=state.running,
            waiting=state.waiting,
            last_used=None if idle is None else datetime.now(UTC) - timedelta(seconds=idle),
        )


class ResidentReply(BaseModel):
    """What the engine holds, by slot."""

    resident: list[ResidentRow]
