"""`/api/adapters/{name}/canary` and `/shadow`: a version gets some of a name's requests, or copies of them."""

from __future__ import annotations

from fastapi import APIRouter, Depends, Response

from loradex.server.auth import Actor, may_admin
from loradex.server.body import JsonRoute, ignored
from loradex.server.state import TheConfig, TheService, refusals
from loradex.server.wire.adapter import AdapterReply
from loradex.server.wire.rollout import CanaryBody, ShadowBody

router = APIRouter(
    prefix="/api/adapters/{name}", tags=["Adapters"], route_class=JsonRoute, dependencies=[Depends(may_admin)]
)


@router.put("/canary", responses=refusals(400, 403, 404, 503))
async def set_canary(
    name: str, body: CanaryBody, response: Response, service: TheService, config: TheConfig, actor: Actor
) -> AdapterReply:
    """Let versions share the requests for the bare name, in percent; what is missing to 100 stays where it is.

    Requests with one `x-loradex-sticky` header, or else one `user`, are answered by one version.
    """
    response.headers.update(ignored(body, config.strict))
    await service.rollout.canary(name, body.table, actor=actor)
    return AdapterReply.of(await service.adapters.get(name))


@router.delete("/canary", responses=refusals(400, 403, 404))
async def end_canary(name: str, service: TheService, actor: Actor) -> AdapterReply:
    """Give all requests back to the version that the name means."""
    await service.rollout.end_canary(name, actor=actor)
    return AdapterReply.of(await service.adapters.get(name))


@router.put("/shadow", responses=refusals(400, 403, 404, 503))
async def set_shadow(
    name: str, body: ShadowBody, response: Response, service: TheService, config: TheConfig, actor: Actor
) -> AdapterReply:
    """Let a version get a copy of part of the requests for the bare name. Its answers are recorded, never returned.

    They are in `shadows/NAME.jsonl` in the server's data folder.
    """
    response.headers.update(ignored(body, config.strict))
    await service.rollout.shadow(name, body.version, body.percent, actor=actor)
    return AdapterReply.of(await service.adapters.get(name))


@router.delete("/shadow", responses=refusals(400, 403, 404))
async def end_shadow(name: str, service: TheService, actor: Actor) -> AdapterReply:
    """End the copies."""
    await service.rollout.end_shadow(name, actor=actor)
    return AdapterReply.of(await service.adapters.get(name))
