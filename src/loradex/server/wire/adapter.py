"""An adapter, its versions, its history and the report of a check, as replies."""

from __future__ import annotations

import os
from datetime import datetime

from pydantic import BaseModel

from loradex.adapters.check import CheckReport
from loradex.registry.records import HistoryEntry
from loradex.server.wire.error import ProblemBody
from loradex.service.views import AdapterView, VersionState
from loradex.service.watch import Invalid


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
    """A name, its aliases and its versions, oldest first.

    `current` is what the bare name means; `canary` the percent of its requests by version while they are shared.
    """

    name: str
    enabled: bool
    current: int | None
    created_at: datetime
    aliases: dict[str, int]
    canary: dict[int, float]
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
            canary=dict(view.canary),
            versions=[VersionReply.of(version) for version in view.versions],
        )


class InvalidRow(BaseModel):
    """An entry of a watched folder that cannot be served, with the error that refused it."""

    name: str
    path: str
    code: str
    message: str
    problems: list[ProblemBody]

    @classmethod
    def of(cls, entry: Invalid) -> InvalidRow:
        """Return the row for an entry."""
        problems = [ProblemBody(code=each.code, what=each.what, fix=each.fix) for each in entry.problems]
        path = os.fsencode(entry.path).decode("utf-8", "replace")
        return cls(name=entry.name, path=path, code=entry.code, message=entry.message, problems=problems)


class AdapterListReply(BaseModel):
    """Every adapter for this base, and what watched folders hold that cannot be served."""

    adapters: list[AdapterReply]
    invalid: list[InvalidRow]


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
    note: str

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
            note=entry.note,
        )


class HistoryReply(BaseModel):
    """Every change of a name, newest first."""

    history: list[HistoryRow]
