"""`POST /v1/chat/completions`."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

from fastapi import APIRouter, Depends, Request, Response

from loradex.core.event import Event, Finished
from loradex.errors import PermissionDenied
from loradex.server import logprobs
from loradex.server.answers import STICKY, Answers, Choice
from loradex.server.attend import attended
from loradex.server.auth import is_admin, may_infer
from loradex.server.body import JsonRoute, ignored
from loradex.server.errors import request_id
from loradex.server.meter import Meter
from loradex.server.selection import selected
from loradex.server.sse import EventStream
from loradex.server.state import TheConfig, TheService, refusals
from loradex.server.wire.chat import AnswerMessage, ChatChoice, ChatReply, ChatRequest
from loradex.service.generate import Ask

router = APIRouter(prefix="/v1", tags=["OpenAI"], route_class=JsonRoute, dependencies=[Depends(may_infer)])


@router.post(
    "/chat/completions",
    response_model=ChatReply,
    responses={200: {"content": {"text/event-stream": {}}}, **refusals(400, 403, 404, 503)},
)
async def create_chat_completion(
    body: ChatRequest, request: Request, service: TheService, config: TheConfig
) -> Response:
    """Answer a conversation, at once or as a stream of `chat.completion.chunk` events."""
    body.check()
    extra = ignored(body, config.strict)
    if body.chat_template and not is_admin(request):
        # A template is a program, and it runs in the server.
        raise PermissionDenied("`chat_template` needs a key with the `admin` scope")
    limit = body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens
    alternatives = (body.top_logprobs or 0) if body.logprobs else None
    sampling = body.sampling(limit, alternatives)
    chat_id = f"chatcmpl-{request_id(request)}"
    key = request.headers.get(STICKY) or body.user or ""
    [mix] = await selected(body, request, service)
    who = (body.model, body.prompt(), sampling, body.n or 1, chat_id, body.priority or 0, key)
    ask = Ask(*who, mix, body.given(limit))

    async def begin() -> Answers:
        return await Answers.begin(service, [ask])

    if body.stream:
        answers = await attended(request.receive, begin())
        return EventStream(_chunks(answers, chat_id, body), answers.aclose, {**extra, **answers.headers})
    return await attended(request.receive, _whole(begin, chat_id, extra, scored=body.prompt_logprobs is not None))


async def _whole(
    begin: Callable[[], Awaitable[Answers]], chat_id: str, headers: dict[str, str], *, scored: bool
) -> Response:
    answers = await begin()
    try:
        choices = await answers.collect()
    finally:
        await answers.aclose()
    reply = ChatReply(
        id=chat_id,
        created=int(time.time()),
        model=answers.model,
        choices=[_choice(index, choice) for index, choice in enumerate(choices)],
        usage=answers.usage(),
        system_fingerprint=answers.fingerprint,
        prompt_logprobs=logprobs.for_prompt(choices[0].prompt_logprobs) if scored else None,
    )
    return Response(reply.model_dump_json(), headers={**headers, **answers.headers}, media_type="application/json")


def _choice(index: int, choice: Choice) -> ChatChoice:
    return ChatChoice(
        index=index,
        message=AnswerMessage(content=choice.text),
        logprobs=logprobs.for_chat(choice.logprobs) if choice.logprobs else None,
        finish_reason=choice.end.reason if choice.end else None,
        stop_reason=choice.end.stop_reason if choice.end else None,
    )


async def _chunks(answers: Answers, chat_id: str, body: ChatRequest) -> AsyncGenerator[dict[str, Any], None]:
    head = {
        "id": chat_id,
        "object": "chat.completion.chunk",
        "created": int(time.time()),
        "model": answers.model,
        "system_fingerprint": answers.fingerprint,
    }
    meter = Meter(answers, body)
    role = {"delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
    for index in range(len(answers)):
        yield {**head, "choices": [{"index": index, **role}], **meter.chunk(index)}
    async for index, event in answers.events():
        meter.count(index, event)
        head["system_fingerprint"] = answers.fingerprint  # it changes with an `immediate` replace
        yield {**head, "choices": [{"index": index, **_delta(event)}], **meter.chunk(index)}
    for last in meter.end():
        yield {**head, **last}


def _delta(event: Event) -> dict[str, Any]:
    if isinstance(event, Finished):
        return {"delta": {}, "logprobs": None, "finish_reason": event.reason, "stop_reason": event.stop_reason}
    told = logprobs.for_chat(event.logprobs).model_dump() if event.logprobs else None
    return {"delta": {"content": event.text}, "logprobs": told, "finish_reason": None}
