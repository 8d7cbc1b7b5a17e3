"""`/api/resident`: what the engine holds."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Response

from loradex.core.adapter import Reference
from loradex.server.auth import Actor, may_admin, may_infer
from loradex.server.body import JsonRoute, ignored
from loradex.server.jobs import LATER, Verbs
from loradex.server.state import TheConfig, TheService, refusals
from loradex.server.wire.adapter import AdapterReply
from loradex.server.wire.resident import ResidentReply, ResidentRow
from loradex.server.wire.verbs import ChangeReply, LoadBody
from loradex.service.departure import SECONDS, Departure

router = APIRouter(prefix="/api", tags=["Adapters"], route_class=JsonRoute)


@router.get("/resident", dependencies=[Depends(may_infer)], responses=refusals(503))
async def list_resident(service: TheService) -> ResidentReply:
    """List the versions that the engine can use at its next step, by slot, then those of copies in host memory."""
    rows = [
        ResidentRow.of(view.name, version)
        for view in await service.adapters.list()
        for version in view.versions
        if version.tier != "disk"
    ]
    room, host = service.residency.room, service.residency.host
    return ResidentReply(
        resident=sorted(rows, key=lambda row: (row.tier, row.slot or 0, row.name)),
        bytes=room.bytes,
        adapter_memory=room.budget.bytes,
        max_loras=room.budget.slots,
        host_bytes=host.bytes,
        adapter_host_memory=host.budget,
    )


@router.post(
    "/resident",
    dependencies=[Depends(may_admin)],
    response_model=ChangeReply,
    responses={**LATER, **refusals(400, 403, 404, 503)},
)
async def load_adapter(
    body: LoadBody, response: Response, service: TheService, config: TheConfig, actor: Actor, verbs: Verbs
) -> ChangeReply | Response:
    """Make an adapter, or one version of it, resident ahead of its first request."""
    response.headers.update(ignored(body, config.strict))
    load = partial(service.residents.load, body.adapter, actor=actor)
    return await verbs.carry_out("load", body.adapter, lambda progress: load(progress=progress))


@router.put("/resident/{name}/pin", dependencies=[Depends(may_admin)], responses=refusals(400, 403, 404, 503))
async def pin_adapter(name: str, service: TheService) -> ChangeReply:
    """Make an adapter resident, and let it stay so until it is unpinned or the server stops."""
    return ChangeReply.of(await service.residents.pin(name))


@router.delete("/resident/{name}/pin", dependencies=[Depends(may_admin)], responses=refusals(400, 403, 404))
async def unpin_adapter(name: str, service: TheService) -> AdapterReply:
    """Let an adapter that was pinned make room for others again."""
    await service.residents.unpin(name)
    return AdapterReply.of(await service.adapters.get(Reference.parse(name).name))


@router.delete(
    "/resident/{name}",
    dependencies=[Depends(may_admin)],
    response_model=AdapterReply,
    responses={**LATER, **refusals(400, 403, 404, 409)},
)
async def unload_adapter(
    name: str,
    service: TheService,
    actor: Actor,
    verbs: Verbs,
    mode: Departure = "detach",
    timeout: Annotated[float, Query(ge=0, le=86400, description="Seconds to wait for the answers")] = SECONDS,
) -> AdapterReply | Response:
    """Free an adapter's weights. Its name goes on to work: it loads again when asked.

    `detach` replies at once, and they are freed when no answer uses them any more; `drain` waits for that, and changes
    nothing if it takes longer than `timeout`; `force` ends the answers that use them with an error.
    """
    unload = partial(service.residents.unload, name, how=mode, seconds=timeout, actor=actor)
    if (job := verbs.begun("unload", name, lambda progress: unload(progress=progress))) is not None:
        return job
    await unload()
    return AdapterReply.of(await service.adapters.get(Reference.parse(name).name))
