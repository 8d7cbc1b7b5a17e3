"""`POST /api/compare`: what several sides say to one prompt, all in one batch."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, Depends, Request, Response

from loradex.core.event import Delta
from loradex.server.answers import STICKY
from loradex.server.attend import attended
from loradex.server.auth import may_infer
from loradex.server.body import JsonRoute, ignored
from loradex.server.errors import request_id
from loradex.server.sse import EventStream
from loradex.server.state import TheConfig, TheService, refusals
from loradex.server.wire.compare import CompareBody, CompareReply, SideReply, TokenReply
from loradex.server.wire.route import RouteReply
from loradex.service.ask import Ask
from loradex.service.compare import Began, Comparison, SideAnswer

router = APIRouter(prefix="/api", tags=["Comparison"], route_class=JsonRoute, dependencies=[Depends(may_infer)])


@router.post(
    "/compare",
    response_model=CompareReply,
    responses={200: {"content": {"text/event-stream": {}}}, **refusals(400, 503)},
)
async def compare(body: CompareBody, request: Request, service: TheService, config: TheConfig) -> Response:
    """Let several sides answer one prompt, at once or as a stream of `begin`, `text`, `end` and `compared` events.

    A side that fails has an `error`; the others answer all the same.
    """
    body.check()
    extra = ignored(body, config.strict)
    sampling = body.sampling(body.max_tokens, body.top_logprobs or 0)
    compare_id = f"cmp-{request_id(request)}"
    key = request.headers.get(STICKY) or body.user or ""
    prompt = body.asked(chat=service.info.has_chat_template)
    ask = Ask(None, prompt, sampling, 1, compare_id, body.priority or 0, key, given=body.given(body.max_tokens))
    comparison = service.compare(ask, body.sides, body.reference or "")
    if body.stream:
        chunks = _chunks(comparison, compare_id)
        return EventStream(chunks, chunks.aclose, extra)
    reply = await attended(request.receive, _whole(comparison, compare_id))
    return Response(reply.model_dump_json(), headers=extra, media_type="application/json")


async def _whole(comparison: Comparison, compare_id: str) -> CompareReply:
    async with aclosing(_chunks(comparison, compare_id)) as chunks:
        last = [chunk async for chunk in chunks][-1]
    return CompareReply.model_validate(last)


async def _chunks(comparison: Comparison, compare_id: str) -> AsyncGenerator[dict[str, Any], None]:
    sides: dict[int, SideReply] = {}
    async with aclosing(comparison.events()) as events:
        async for index, event in events:
            name = comparison.sides[index]
            if isinstance(event, Began):
                route = RouteReply.of(event.routed).model_dump() if event.routed is not None else None
                yield {"type": "begin", "index": index, "side": name, "adapter": str(event.mix), "route": route}
            elif isinstance(event, Delta):
                tokens = [TokenReply.of(each).model_dump() for each in event.logprobs]
                yield {"type": "text", "index": index, "text": event.text, "tokens": tokens}
            else:
                sides[index] = (
                    SideReply.of(name, event) if isinstance(event, SideAnswer) else SideReply.failed(name, event)
                )
                yield {"type": "end", "index": index, **sides[index].model_dump()}
    ordered = [sides[index] for index in range(len(comparison.sides))]
    reply = await asyncio.to_thread(CompareReply.of, compare_id, ordered, comparison.together)
    yield {"type": "compared", **reply.model_dump()}
