"""`POST /api/route`: which adapter `auto` would take, and why."""

from __future__ import annotations

from fastapi import APIRouter, Depends, Response

from loradex.server.auth import may_infer
from loradex.server.body import JsonRoute, ignored
from loradex.server.state import TheConfig, TheService, refusals
from loradex.server.wire.route import RouteBody, RouteReply

router = APIRouter(prefix="/api", tags=["Routing"], route_class=JsonRoute, dependencies=[Depends(may_infer)])


@router.post("/route", responses=refusals(400, 404, 503))
async def route(body: RouteBody, response: Response, service: TheService, config: TheConfig) -> RouteReply:
    """Say which adapter `model="auto"` would take for a prompt, how sure that is, and why. Nothing is answered."""
    response.headers.update(ignored(body, config.strict))
    return RouteReply.of(await service.routing.decide(body.text))
