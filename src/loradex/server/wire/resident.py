"""What the engine holds, as a reply."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from pydantic import BaseModel

from loradex.service.views import VersionState


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
