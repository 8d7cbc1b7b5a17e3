"""Long operations that go on in the server: looked at, waited for, cancelled. A restart of the server forgets them."""

from __future__ import annotations

import asyncio
import builtins
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol, TypeVar

from loradex.client import wire
from loradex.client.views import Change, Job
from loradex.errors import Conflict, LoradexError, ServerUnreachable

T = TypeVar("T")

FIRST_SECONDS, LOOK_SECONDS = 0.02, 0.5
"""How soon a job that is waited for is looked at again: at first, and once it takes long."""

Told = Callable[[Job], None]
Progress = Callable[[str, float], None]
"""Told a stage, and the share of it that is done."""


class _Send(Protocol):
    def __call__(self, call: wire.Call[T]) -> T: ...


class _AsyncSend(Protocol):
    async def __call__(self, call: wire.Call[T]) -> T: ...


def _ignore(job: Job) -> None:
    pass


def _later(pause: float) -> float:
    return min(LOOK_SECONDS, 1.5 * pause)


def _result(job: Job) -> Change:
    if job.error is not None:
        raise job.error
    if job.state == "cancelled":
        raise Conflict(f"The job `{job.id}` was cancelled", hint="Nothing of it is left: begin it again")
    if job.result is None:
        raise ServerUnreachable("The server's reply is not in the form of a Loradex server")
    return job.result


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
        pause = FIRST_SECONDS
        while not (job := self.get(job_id)).ended:
            told(job)
            time.sleep(pause)
            pause = _later(pause)
        return job

    def follow(self, job: Job, told: Progress) -> Change:
        """Return what a job did, as if its verb had been waited for; an interrupt of the waiting cancels it.

        Raises:
            LoradexError: what the verb raises.
            Conflict: it was cancelled.
        """
        try:
            return _result(self.wait(job.id, told=lambda seen: told(seen.stage, seen.progress)))
        except KeyboardInterrupt:
            with suppress(LoradexError):
                self.cancel(job.id)
            raise


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
        pause = FIRST_SECONDS
        while not (job := await self.get(job_id)).ended:
            told(job)
            await asyncio.sleep(pause)
            pause = _later(pause)
        return job

    async def follow(self, job: Job, told: Progress) -> Change:
        """Return what a job did, as if its verb had been waited for; to cancel the waiting cancels it.

        Raises:
            LoradexError: what the verb raises.
            Conflict: it was cancelled.
        """
        try:
            return _result(await self.wait(job.id, told=lambda seen: told(seen.stage, seen.progress)))
        except asyncio.CancelledError:
            with suppress(LoradexError):
                await asyncio.shield(self.cancel(job.id))
            raise
