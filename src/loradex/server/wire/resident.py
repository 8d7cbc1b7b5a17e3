"""What the engine holds, as a reply."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from pydantic import BaseModel

from loradex.service.views import VersionState


class ResidentRow(BaseModel):
    """A version that is in memory. Counts are from the start of the server.

    `tier` is `device` where the engine can use it at its next step, `host` for a copy in host memory; `load_seconds` is
    what its last load took, `ttft_seconds` the mean from arrival to a first token, null without one.
    """

    name: str
    version: int
    digest: str
    tier: str
    slot: int | None
    bytes: int
    pinned: bool
    leases: int
    running: int
    waiting: int
    last_used: datetime | None
    hits: int
    misses: int
    loads: int
    load_seconds: float
    evictions: int
    requests: int
    errors: int
    prompt_tokens: int
    output_tokens: int
    ttft_seconds: float | None

    @classmethod
    def of(cls, name: str, state: VersionState) -> ResidentRow:
        """Return the row for a resident version."""
        idle, usage, traffic = state.idle_seconds, state.usage, state.traffic
        return cls(
            name=name,
            version=state.record.version,
            digest=state.record.digest,
            tier=state.tier,
            slot=state.slot,
            bytes=state.device_bytes or state.host_bytes,
            pinned=state.pinned,
            leases=state.leases,
            running=state.running,
            waiting=state.waiting,
            last_used=None if idle is None else datetime.now(UTC) - timedelta(seconds=idle),
            hits=usage.hits,
            misses=usage.misses,
            loads=usage.loads,
            load_seconds=usage.load_seconds,
            evictions=usage.evictions,
            requests=traffic.requests,
            errors=traffic.errors,
            prompt_tokens=traffic.prompt_tokens,
            output_tokens=traffic.output_tokens,
            ttft_seconds=traffic.ttft,
        )


class ResidentReply(BaseModel):
    """What is in memory, how many bytes, and how many there may be (null is no limit); copies in host memory apart."""

    resident: list[ResidentRow]
    bytes: int
    adapter_memory: int | None
    max_loras: int
    host_bytes: int
    adapter_host_memory: int | None
