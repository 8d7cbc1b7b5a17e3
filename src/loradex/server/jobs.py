"""`/api/jobs`, and how a verb becomes one: `Prefer: respond-async` (RFC 7240), or `?wait=false`."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Request, Response

from loradex.engine.base import Progress
from loradex.server.attend import attended
from loradex.server.auth import Actor, may_admin
from loradex.server.body import JsonRoute
from loradex.server.errors import body_of
from loradex.server.state import TheService, refusals
from loradex.server.wire.error import ErrorBody
from loradex.server.wire.job import JobListReply, JobReply
from loradex.server.wire.verbs import ChangeReply
from loradex.service.jobs import Job, Work
from loradex.service.views import Change

router = APIRouter(prefix="/api", tags=["Jobs"], route_class=JsonRoute, dependencies=[Depends(may_admin)])


@dataclass(frozen=True, slots=True)
class _Verbs:
    """Carries out a verb for one request, at once or as a job."""

    service: TheService
    actor: Actor
    response: Response
    request: Request
    prefer: Annotated[str | None, Header(description="`respond-async`: reply with a job, and go on")] = None
    wait: Annotated[bool, Query(description="false: reply with a job, and go on")] = True

    async def carry_out(
        self, kind: str, target: str, work: Callable[[Progress], Coroutine[Any, Any, Change]]
    ) -> ChangeReply | Response:
        """Return what the verb did, or 202 with the job that does it. A verb ends with the client that waits for it."""
        if begun := self.begun(kind, target, work):
            return begun
        return ChangeReply.of(await attended(self.request.receive, work(lambda *_: None)))

    def begun(self, kind: str, target: str, work: Work) -> Response | None:
        """Return 202 with the job that does it, None where the client waits for the verb itself."""
        preferred = "respond-async" in (each.strip() for each in (self.prefer or "").split(","))
        if self.wait and not preferred:
            return None
        job = _reply(self.service.jobs.start(kind, target, work, actor=self.actor))
        headers = {**self.response.headers, "location": f"/api/jobs/{job.id}"}
        headers |= {"preference-applied": "respond-async"} if preferred else {}
        headers.pop("content-length", None)
        return Response(job.model_dump_json(), 202, headers, "application/json")


Verbs = Annotated[_Verbs, Depends()]

LATER: dict[int | str, dict[str, Any]] = {202: {"model": JobReply, "description": "Begun as a job"}}
"""The OpenAPI entry of the reply of verbs that may be jobs."""


@router.get("/jobs", responses=refusals(403, 503))
async def list_jobs(service: TheService) -> JobListReply:
    """List the jobs that run, and the last that have ended, newest first. A restart forgets them."""
    return JobListReply(jobs=[_reply(job) for job in reversed(service.jobs.list())])


@router.get("/jobs/{job_id}", responses=refusals(403, 404, 503))
async def get_job(job_id: str, service: TheService) -> JobReply:
    """Show a job."""
    return _reply(service.jobs.get(job_id))


@router.delete("/jobs/{job_id}", responses=refusals(403, 404, 409, 503))
async def cancel_job(job_id: str, service: TheService) -> JobReply:
    """Cancel a job. It is `cancelling` until what it had begun is put away; then nothing of it is left."""
    return _reply(service.jobs.cancel(job_id))


def _reply(job: Job) -> JobReply:
    return JobReply.of(job, ErrorBody(**body_of(job.error, "")["error"]) if job.error is not None else None)
