"""Long operations that nobody waits for: each can be looked at and, until it takes effect, cancelled.

Jobs live in memory. After a restart none is known any more, and none is half done either: what had not taken effect has
left nothing, and the history of the adapter tells what had.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, Literal

from loradex.engine.base import Progress
from loradex.errors import Conflict, LoradexError, NotFound
from loradex.service.ending import EFFECT
from loradex.service.views import Change

log = logging.getLogger(__name__)

KEPT = 200
"""Ended jobs that are remembered."""

State = Literal["running", "cancelling", "done", "failed", "cancelled"]


@dataclass(slots=True, eq=False)
class Job:
    """One operation.

    Attributes:
        id: made up.
        kind: which verb: `add`, `promote`, `rollback`, `load` or `unload`.
        target: the name or reference that it is about.
        actor: who asked for it.
        created_at, ended_at: in UTC; `ended_at` is None while it runs.
        state: `cancelling` from the request to its end.
        stage, progress: what it does now, and the share of that which is done, from 0 to 1.
        result: what the verb did, once it is `done`; None where it changed no meaning.
        error: why it `failed`.
    """

    id: str
    kind: str
    target: str
    actor: str
    created_at: datetime
    ended_at: datetime | None = None
    state: State = "running"
    stage: str = "waiting"
    progress: float = 0.0
    result: Change | None = None
    error: LoradexError | None = None


Work = Callable[[Progress], Coroutine[Any, Any, Change | None]]
"""A verb that reports its stages."""


class Jobs:
    """The jobs of one service, all on its event loop."""

    def __init__(self) -> None:
        self._jobs: dict[str, Job] = {}
        self._tasks: dict[str, asyncio.Task[Change | None]] = {}

    def start(self, kind: str, target: str, work: Work, *, actor: str = "") -> Job:
        """Begin a job and return it at once."""
        job = Job(uuid.uuid4().hex[:12], kind, target, actor, datetime.now(UTC))
        self._jobs[job.id] = job
        task = asyncio.create_task(work(partial(_report, job)))
        self._tasks[job.id] = task
        task.add_done_callback(partial(self._ended, job))
        return job

    def list(self) -> list[Job]:
        """Return every job that is known, oldest first."""
        return list(self._jobs.values())

    def get(self, job_id: str) -> Job:
        """Return a job.

        Raises:
            NotFound: there is none, or it is forgotten.
        """
        job = self._jobs.get(job_id)
        if job is None:
            raise NotFound(
                f"There is no job `{job_id}`",
                hint="See what is known with `loradex jobs ls`; after a restart, see `loradex adapter history NAME`",
            )
        return job

    def cancel(self, job_id: str) -> Job:
        """Ask a job to stop and return it; it is `cancelled` when it has put away what it had begun.

        Raises:
            NotFound: there is none.
            Conflict: it has ended, or takes effect already.
        """
        job = self.get(job_id)
        if job.ended_at is not None:
            raise Conflict(f"The job `{job_id}` has ended: it is {job.state}", hint="There is nothing to cancel")
        if job.stage == EFFECT:
            raise Conflict(
                f"The job `{job_id}` takes effect already",
                hint=f"Wait for its end, then go back: `loradex adapter rollback {job.target.partition('@')[0]}`",
            )
        job.state = "cancelling"
        self._tasks[job_id].cancel()
        return job

    async def stop(self) -> None:
        """Cancel what runs, and wait for its end."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _ended(self, job: Job, task: asyncio.Task[Change | None]) -> None:
        del self._tasks[job.id]
        job.ended_at = datetime.now(UTC)
        if task.cancelled():
            job.state = "cancelled"
        elif (error := task.exception()) is None:
            job.state, job.result, job.progress = "done", task.result(), 1.0
        else:
            job.state = "failed"
            if not isinstance(error, LoradexError):
                log.error("the job %s (%s %s) failed", job.id, job.kind, job.target, exc_info=error)
                error = LoradexError("The server failed on this job; its log has the reason")
            job.error = error
        ended = [each.id for each in self._jobs.values() if each.ended_at is not None]
        for job_id in ended[:-KEPT]:
            del self._jobs[job_id]


def _report(job: Job, stage: str, share: float) -> None:
    """Take note of what a job does. Called from any thread; one that works for a cancelled job ends here."""
    if job.state == "cancelling":
        raise Conflict("The job was cancelled")
    job.stage, job.progress = stage, share
