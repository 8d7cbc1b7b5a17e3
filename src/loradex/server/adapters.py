"""`/api/adapters`: names, versions and aliases."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response

from loradex.server.attend import attended
from loradex.server.auth import Actor, may_admin, may_infer
from loradex.server.body import JsonRoute, ignored
from loradex.server.jobs import LATER, Verbs
from loradex.server.state import TheConfig, TheService, refusals
from loradex.server.wire.adapter import (
    AdapterDetail,
    AdapterListReply,
    AdapterReply,
    HistoryReply,
    HistoryRow,
    InvalidRow,
    ReportReply,
)
from loradex.server.wire.defaults import DefaultsBody
from loradex.server.wire.verbs import AddBody, ChangeReply, CheckBody, PromoteBody, RemovedReply, RollbackBody

router = APIRouter(prefix="/api", tags=["Adapters"], route_class=JsonRoute)
ADMIN = [Depends(may_admin)]
INFER = [Depends(may_infer)]


@router.get("/adapters", dependencies=INFER, responses=refusals(503))
async def list_adapters(service: TheService) -> AdapterListReply:
    """List every adapter for this base, with its versions and where their weights are."""
    return AdapterListReply(
        adapters=[AdapterReply.of(view) for view in await service.adapters.list()],
        invalid=[InvalidRow.of(entry) for entry in service.watcher.invalid],
    )


@router.post(
    "/adapters",
    dependencies=ADMIN,
    response_model=ChangeReply,
    responses={**LATER, **refusals(400, 403, 404, 409, 502, 503)},
)
async def add_adapter(
    body: AddBody, response: Response, service: TheService, config: TheConfig, actor: Actor, verbs: Verbs
) -> ChangeReply | Response:
    """Check, register, load and serve the next version of an adapter; under a new name, the first."""
    response.headers.update(ignored(body, config.strict))
    return await verbs.carry_out(
        "add",
        body.name,
        lambda progress: service.adapters.add(
            body.name,
            body.path,
            mode=body.mode,
            replace=body.replace,
            allow_pickle=body.allow_pickle,
            sha256=body.sha256,
            canary=body.canary,
            defaults=body.defaults.defaults() if body.defaults is not None else None,
            actor=actor,
            progress=progress,
        ),
    )


@router.post("/adapters:check", dependencies=ADMIN, responses=refusals(400, 403, 404, 502))
async def check_adapter(
    body: CheckBody, request: Request, response: Response, service: TheService, config: TheConfig
) -> ReportReply:
    """Say whether the adapter at a path could be served, and every reason why not. Registers nothing."""
    response.headers.update(ignored(body, config.strict))
    check = service.adapters.check(body.path, allow_pickle=body.allow_pickle)
    return ReportReply.of(await attended(request.receive, check))


@router.get("/adapters/{name}", dependencies=INFER, responses=refusals(400, 404))
async def get_adapter(name: str, service: TheService) -> AdapterDetail:
    """Show all that is known of one adapter: versions with their configurations, where they are and what they did."""
    return AdapterDetail.of(await service.adapters.get(name))


@router.put("/adapters/{name}/defaults", dependencies=ADMIN, responses=refusals(400, 403, 404))
async def configure_adapter(
    name: str,
    body: DefaultsBody,
    service: TheService,
    actor: Actor,
    version: Annotated[int | None, Query(ge=1, le=2**31 - 1)] = None,
) -> AdapterDetail:
    """Set what requests for a version may leave out; without `version`, of the one that the name means."""
    await service.adapters.configure(name, body.defaults(), version, actor=actor)
    return AdapterDetail.of(await service.adapters.get(name))


@router.delete("/adapters/{name}", dependencies=ADMIN, responses=refusals(400, 403, 404, 409))
async def remove_adapter(
    name: str, service: TheService, actor: Actor, version: Annotated[int | None, Query(ge=1, le=2**31 - 1)] = None
) -> RemovedReply:
    """Remove an adapter, or one version of it. Answers under way finish."""
    await service.adapters.remove(name, version, actor=actor)
    return RemovedReply(name=name, version=version)


@router.get("/adapters/{name}/history", dependencies=INFER, responses=refusals(400, 404))
async def adapter_history(name: str, service: TheService) -> HistoryReply:
    """Show every change of an adapter, newest first."""
    entries = await service.adapters.history(name)
    return HistoryReply(history=[HistoryRow.of(entry) for entry in reversed(entries)])


@router.put(
    "/adapters/{name}/aliases/{alias}",
    dependencies=ADMIN,
    response_model=ChangeReply,
    responses={**LATER, **refusals(400, 403, 404, 409, 503)},
)
async def promote_adapter(
    name: str,
    alias: str,
    body: PromoteBody,
    response: Response,
    service: TheService,
    config: TheConfig,
    actor: Actor,
    verbs: Verbs,
) -> ChangeReply | Response:
    """Point an alias at a version; `default` is what the bare name means."""
    response.headers.update(ignored(body, config.strict))
    promote = partial(service.adapters.promote, name, body.version, alias, mode=body.mode, actor=actor)
    return await verbs.carry_out("promote", name, lambda progress: promote(progress=progress))


@router.delete("/adapters/{name}/aliases/{alias}", dependencies=ADMIN, responses=refusals(400, 403, 404, 409))
async def remove_alias(name: str, alias: str, service: TheService, actor: Actor) -> AdapterReply:
    """Remove an alias."""
    await service.adapters.remove_alias(name, alias, actor=actor)
    return AdapterReply.of(await service.adapters.get(name))


@router.post(
    "/adapters/{name}/rollback",
    dependencies=ADMIN,
    response_model=ChangeReply,
    responses={**LATER, **refusals(400, 403, 404, 409, 503)},
)
async def rollback_adapter(
    name: str,
    response: Response,
    service: TheService,
    config: TheConfig,
    actor: Actor,
    verbs: Verbs,
    body: RollbackBody | None = None,
) -> ChangeReply | Response:
    """Go back to what the name meant before its last change; while a canary runs, end that."""
    asked = body or RollbackBody()
    response.headers.update(ignored(asked, config.strict))
    rollback = partial(service.adapters.rollback, name, mode=asked.mode, actor=actor)
    return await verbs.carry_out("rollback", name, lambda progress: rollback(progress=progress))
