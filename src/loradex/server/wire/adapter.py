"""An adapter, its versions, its history and the report of a check, as replies."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any, Self

from pydantic import BaseModel

from loradex.adapters.summary import kinds
from loradex.registry.records import HistoryEntry
from loradex.server.wire.error import ProblemBody
from loradex.service.views import AdapterView, Checked, VersionState
from loradex.service.watch import Invalid


class VersionReply(BaseModel):
    """One immutable version.

    Counts are from the start of the server: `hits` found it in memory, `misses` waited for a load, of which
    `load_seconds` is what the last took; `ttft_seconds` is the mean from arrival to a first token, null without one.
    """

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
    tier: str
    pinned: bool
    slot: int | None
    leases: int
    running: int
    waiting: int
    hits: int
    misses: int
    device_bytes: int
    host_bytes: int
    loads: int
    load_seconds: float
    evictions: int
    requests: int
    errors: int
    prompt_tokens: int
    output_tokens: int
    ttft_seconds: float | None

    @classmethod
    def of(cls, state: VersionState, **more: Any) -> Self:
        """Return the reply for a version."""
        record, usage, traffic = state.record, state.usage, state.traffic
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
            tier=state.tier,
            pinned=state.pinned,
            slot=state.slot,
            leases=state.leases,
            running=state.running,
            waiting=state.waiting,
            hits=usage.hits,
            misses=usage.misses,
            device_bytes=state.device_bytes,
            host_bytes=state.host_bytes,
            loads=usage.loads,
            load_seconds=usage.load_seconds,
            evictions=usage.evictions,
            requests=traffic.requests,
            errors=traffic.errors,
            prompt_tokens=traffic.prompt_tokens,
            output_tokens=traffic.output_tokens,
            ttft_seconds=traffic.ttft,
            **more,
        )


class VersionDetail(VersionReply):
    """One immutable version, with its `adapter_config.json`, and what requests for it may leave out."""

    config: dict[str, Any]
    defaults: dict[str, Any]

    @classmethod
    def of(cls, state: VersionState, **more: Any) -> Self:
        """Return the reply for a version."""
        return super().of(state, config=dict(state.record.config), defaults=state.record.defaults.written(), **more)


class ShadowReply(BaseModel):
    """The version that gets a copy of `percent` of the requests."""

    version: int
    percent: float


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
    shadow: ShadowReply | None
    versions: Sequence[VersionReply]

    @classmethod
    def of(cls, view: AdapterView) -> Self:
        """Return the reply for an adapter."""
        return cls(
            name=view.name,
            enabled=view.enabled,
            current=view.current,
            created_at=view.created_at,
            aliases=dict(view.aliases),
            canary=dict(view.canary),
            shadow=ShadowReply(version=view.shadow.version, percent=view.shadow.percent) if view.shadow else None,
            versions=cls._versions(view),
        )

    @classmethod
    def _versions(cls, view: AdapterView) -> Sequence[VersionReply]:
        return [VersionReply.of(version) for version in view.versions]


class AdapterDetail(AdapterReply):
    """A name, with the configuration of each version."""

    versions: Sequence[VersionDetail]

    @classmethod
    def _versions(cls, view: AdapterView) -> Sequence[VersionDetail]:
        return [VersionDetail.of(version) for version in view.versions]


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


class KindReply(BaseModel):
    """The adapted linears of one kind and shape, with all ranks and scalings that occur among them."""

    name: str
    count: int
    in_features: int
    out_features: int
    ranks: list[int]
    scalings: list[float]


class ReportReply(BaseModel):
    """What a check found, and what serving the adapter would take.

    `device_bytes` is what it would take in the engine, `load_seconds` how long a load would take at the rate of all
    loads so far, null before the first.
    """

    ok: bool
    format: str
    digest: str
    rank: int
    modules: list[str]
    kinds: list[KindReply]
    parameters: int
    bytes: int
    device_bytes: int
    load_seconds: float | None
    base_model: str | None
    problems: list[ProblemBody]
    warnings: list[str]

    @classmethod
    def of(cls, checked: Checked) -> ReportReply:
        """Return the reply for what was checked."""
        report = checked.report
        found = kinds(report.adapter.layers) if report.adapter is not None else ()
        return cls(
            ok=report.ok,
            format=report.format,
            digest=report.digest,
            rank=report.rank,
            modules=list(report.modules),
            kinds=[KindReply(**asdict(each)) for each in found],
            parameters=report.parameters,
            bytes=report.bytes,
            device_bytes=checked.device_bytes,
            load_seconds=checked.load_seconds,
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
