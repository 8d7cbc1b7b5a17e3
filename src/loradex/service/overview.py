"""What is known of adapters now: the registry's records joined with engine, memory and traffic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from loradex.core.adapter import AdapterRef
from loradex.engine.base import Engine, Resident
from loradex.registry.records import AdapterRecord, VersionRecord
from loradex.service.hold import Hold
from loradex.service.residency import Residency
from loradex.service.traffic import TrafficLog
from loradex.service.views import AdapterView, VersionState


class Overview:
    """Sees where each version is, and what it did."""

    def __init__(self, engine: Engine, residency: Residency, traffic: TrafficLog) -> None:
        self._engine = engine
        self._residency = residency
        self._traffic = traffic

    def of(self, records: Sequence[AdapterRecord]) -> list[AdapterView]:
        """Return the records with the present state of each version."""
        holds = self._residency.states()
        residents = {resident.digest: resident for resident in self._engine.resident()}
        return [
            AdapterView(record, tuple(self._state(record.name, each, holds, residents) for each in record.versions))
            for record in records
        ]

    def _state(
        self, name: str, record: VersionRecord, holds: Mapping[str, Hold], residents: Mapping[str, Resident]
    ) -> VersionState:
        digest = record.digest
        hold, resident = holds.get(digest), residents.get(digest)
        host_bytes = self._residency.host.held(digest)
        queued = hold.waiting if hold is not None else 0
        state = VersionState(
            record,
            tier="host" if host_bytes else "disk",
            waiting=queued,
            host_bytes=host_bytes,
            usage=self._residency.ledger.of(digest),
            traffic=self._traffic.of(AdapterRef(name, record.version, digest)),
        )
        if hold is None or resident is None or not hold.resident:
            return state
        return replace(
            state,
            tier="device",
            slot=resident.slot,
            leases=hold.leases,
            running=resident.running,
            waiting=resident.waiting + queued,
            device_bytes=resident.bytes,
            idle_seconds=hold.idle_seconds,
            pinned=hold.pinned,
        )
