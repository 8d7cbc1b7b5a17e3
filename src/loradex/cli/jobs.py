"""`loradex jobs`: long operations that go on in the server."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from loradex.cli.command import TARGET, command
from loradex.cli.errors import explained
from loradex.cli.output import Output, grid
from loradex.cli.target import Target

if TYPE_CHECKING:
    from loradex.client.views import Job

app = typer.Typer(name="jobs", help="Look at and cancel long operations.", no_args_is_help=True, rich_markup_mode=None)

JobId = Annotated[str, typer.Argument(metavar="ID", help="Id of the job.", show_default=False)]


@command(app, "ls", flags=TARGET, examples=("loradex jobs ls", "loradex jobs ls --json"), hidden_alias="list")
def ls(out: Output, target: Target) -> None:
    """List the jobs that run and the last that have ended. A restart of the server forgets them."""
    with target.client() as client:
        found = client.jobs.list()
    rows = [(each.id, each.kind, each.target, each.state, _doing(each), _short(each.created_at)) for each in found]
    columns = ("id", "what", "adapter", "state", "stage", "begun (UTC)")
    out.table(
        columns,
        rows,
        {"jobs": [_value(each) for each in found]},
        [each.id for each in found],
        empty="No jobs since the server started",
    )


@command(
    app, "show", flags=TARGET, examples=("loradex jobs show 1f2e3d4c5b6a", "loradex jobs show 1f2e3d4c5b6a --wait")
)
def show(
    out: Output,
    target: Target,
    job_id: JobId,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until it has ended.")] = False,
) -> None:
    """Show a job; the exit code is 1 where it has failed."""
    with target.client() as client, out.progress() as progress:
        found = client.jobs.get(job_id)
        if wait:
            found = client.jobs.wait(job_id, told=lambda job: progress(job.stage, job.progress))
    if found.error is not None and out.mode != "json":
        raise found.error
    facts = [
        ("job", f"{found.kind} {found.target}"),
        ("state", found.state),
        ("stage", _doing(found)),
        ("by", found.actor),
        ("begun (UTC)", _short(found.created_at)),
        ("ended (UTC)", _short(found.ended_at or "")),
        ("result", f"{found.result.name}@{found.result.version}" if found.result else ""),
    ]
    out.data(_value(found), grid(("", ""), [fact for fact in facts if fact[1]]), quiet=[found.id])
    if found.error is not None:
        raise typer.Exit(1)


@command(app, "cancel", flags=TARGET, examples=("loradex jobs cancel 1f2e3d4c5b6a", "loradex jobs cancel 1f2e --json"))
def cancel(out: Output, target: Target, job_id: JobId) -> None:
    """Cancel a job. What it had begun is put away; once it takes effect it cannot be cancelled."""
    with target.client() as client:
        client.jobs.cancel(job_id)
        found = client.jobs.wait(job_id)
    out.data(_value(found), f"{found.kind} {found.target}: {found.state}", quiet=[found.id])


def _value(job: Job) -> dict[str, Any]:
    error = explained(job.error).body()["error"] if job.error is not None else None
    return {**asdict(replace(job, error=None)), "error": error}


def _doing(job: Job) -> str:
    return f"{job.stage} {job.progress:.0%}" if job.stage and 0 < job.progress < 1 else job.stage


def _short(when: str) -> str:
    return when[:19].replace("T", " ")
