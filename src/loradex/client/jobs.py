"""Long operations that go on in the server: looked at, waited for, cancelled. A restart of the server forgets them."""

from __future__ import annotations

import asyncio
import builtins
import time
from collections.abc import Callable
from typing import Protocol, TypeVar

from loradex.client import wire
from loradex.client.views import Job

T = TypeVar("T")

LOOK_SECONDS = 0.2
"""How often a job that is waited for is looked at."""

Told = Callable[[Job], None]


class _Send(Protocol):
    def __call__(self, call: wire.Call[T]) -> T: ...


class _AsyncSend(Protocol):
    async def __call__(self, call: wire.Call[T]) -> T: ...


def _ignore(job: Job) -> None:
    pass


class Jobs:
    """The verbs of `loradex jobs`, over HTTP."""

    def __init__(self, send: _Send) -> None:
        self._send = send

    def list(self) -> builtins.list[Job]:
        """Return the jobs that run and the last that have ended, newest first."""
        return self._send(wire.list_jobs())

    def get(self, job_id: str) -> Job:
        """Return one job. Raises NotFound where the server does not know it."""
        return self._send(wire.get_job(job_id))

    def cancel(self, job_id: str) -> Job:
        """Ask a job to stop. Raises Conflict where it has ended or takes effect already."""
        return self._send(wire.cancel_job(job_id))

    def wait(self, job_id: str, *, told: Told = _ignore) -> Job:
        """Return a job when it has ended; meanwhile `told` what it does."""
        while not (job := self.get(job_id)).ended:
            told(job)
            time.sleep(LOOK_SECONDS)
        return job


class AsyncJobs:
    """The verbs of `loradex jobs`, over HTTP."""

    def __init__(self, send: _AsyncSend) -> None:
        self._send = send

    async def list(self) -> builtins.list[Job]:
        """Return the jobs that run and the last that have ended, newest first."""
        return await self._send(wire.list_jobs())

    async def get(self, job_id: str) -> Job:
        """Return one job. Raises NotFound where the server does not know it."""
        return await self._send(wire.get_job(job_id))

    async def cancel(self, job_id: str) -> Job:
        """Ask a job to stop. Raises Conflict where it has ended or takes effect already."""
        return await self._send(wire.cancel_job(job_id))

    async def wait(self, job_id: str, *, told: Told = _ignore) -> Job:
        """Return a job when it has ended; meanwhile `told` what it does."""
        while not (job := await self.get(job_id)).ended:
            told(job)
            await asyncio.sleep(LOOK_SECONDS)
        return job
