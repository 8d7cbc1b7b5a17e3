"""A job as a reply."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, Field

from loradex.server.wire.error import ErrorBody
from loradex.server.wire.verbs import ChangeReply
from loradex.service.jobs import Job


class JobReply(BaseModel):
    """A long operation. It can be cancelled until its stage is `commit`."""

    id: str
    kind: str = Field(description="`add`, `promote`, `rollback`, `load` or `unload`")
    target: str
    actor: str
    state: Literal["running", "cancelling", "done", "failed", "cancelled"]
    stage: str = Field(description="What it does, or did last: `check`, `pack`, `load`, `warm`, `commit`; `drain`")
    progress: float = Field(description="Share of the stage that is done, from 0 to 1, where that is known")
    created_at: datetime
    ended_at: datetime | None
    result: ChangeReply | None = Field(description="What it did, once it is done; null for `unload`")
    error: ErrorBody | None = Field(description="Why it failed")

    @classmethod
    def of(cls, job: Job, error: ErrorBody | None) -> JobReply:
        """Return the reply for a job, with its error as a body."""
        return cls(
            id=job.id,
            kind=job.kind,
            target=job.target,
            actor=job.actor,
            state=job.state,
            stage=job.stage,
            progress=job.progress,
            created_at=job.created_at,
            ended_at=job.ended_at,
            result=ChangeReply.of(job.result) if job.result is not None else None,
            error=error,
        )


class JobListReply(BaseModel):
    """Every job that is known, newest first."""

    jobs: list[JobReply]
