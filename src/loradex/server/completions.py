"""`POST /v1/completions`."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Any

from fastapi import APIRouter, Depends, Request, Response

from loradex.core.adapter import Reference
from loradex.core.event import Delta
from loradex.core.mix import Mix
from loradex.core.sampling import Sampling
from loradex.server import logprobs
from loradex.server.answers import STICKY, Answers, Choice
from loradex.server.attend import attended
from loradex.server.auth import may_infer
from loradex.server.body import JsonRoute, ignored
from loradex.server.errors import request_id
from loradex.server.logprobs import CompletionLogprobs
from loradex.server.meter import Meter
from loradex.server.selection import selected
from loradex.server.sse import EventStream
from loradex.server.state import TheConfig, TheService, refusals
from loradex.server.wire.completion import CompletionChoice, CompletionReply, CompletionRequest, TextPrompt
from loradex.service.generate import Ask
from loradex.service.service import Service

router = APIRouter(prefix="/v1", tags=["OpenAI"], route_class=JsonRoute, dependencies=[Depends(may_infer)])


@router.post(
    "/completions",
    response_model=CompletionReply,
    responses={200: {"content": {"text/event-stream": {}}}, **refusals(400, 404, 503)},
)
async def create_completion(
    body: CompletionRequest, request: Request, service: TheService, config: TheConfig
) -> Response:
    """Complete one or more prompts, at once or as a stream of `text_completion` events."""
    body.check()
    extra = ignored(body, config.strict)
    prompts = body.prompts()
    sampling = body.answer()
    key = request.headers.get(STICKY) or body.user or ""
    mixes = await selected(body, request, service, len(prompts))
    call = _Call(service, body, prompts, mixes, sampling, f"cmpl-{request_id(request)}", key)
    if body.stream:
        answers = await attended(request.receive, call.begin())
        return EventStream(call.chunks(answers), answers.aclose, {**extra, **answers.headers})
    return await attended(request.receive, call.whole(extra))


class _Call:
    """One request for completions."""

    def __init__(
        self,
        service: Service,
        body: CompletionRequest,
        prompts: list[TextPrompt],
        mixes: list[Mix[Reference]],
        sampling: Sampling,
        call_id: str,
        key: str,
    ) -> None:
        self._service = service
        self._body = body
        self._prompts = prompts
        self._id = call_id
        self._n = body.n or 1
        ids = [call_id] if len(prompts) == 1 else [f"{call_id}-{index}" for index in range(len(prompts))]
        self._scored = sampling.prompt_logprobs is not None
        who = (body.model, "", sampling, self._n, "", body.priority or 0, key)
        shared = Ask(*who, given=body.given(body.max_tokens))
        self._asks = [
            replace(shared, prompt=prompt, request_id=own, adapters=mix)
            for prompt, own, mix in zip(prompts, ids, mixes, strict=True)
        ]

    async def begin(self) -> Answers:
        return await Answers.begin(self._service, self._asks)

    async def whole(self, headers: dict[str, str]) -> Response:
        answers = await self.begin()
        try:
            choices = await answers.collect()
        finally:
            await answers.aclose()
        reply = CompletionReply(
            id=self._id,
            created=int(time.time()),
            model=answers.model,
            choices=[self._choice(answers, index, choice) for index, choice in enumerate(choices)],
            usage=answers.usage(),
            system_fingerprint=answers.fingerprint,
        )
        return Response(reply.model_dump_json(), headers={**headers, **answers.headers}, media_type="application/json")

    def _choice(self, answers: Answers, index: int, choice: Choice) -> CompletionChoice:
        whole = Delta(choice.text, (), tuple(choice.logprobs), prompt_logprobs=tuple(choice.prompt_logprobs))
        text, told = self._shown(answers, index, whole, first=True)
        scored = logprobs.for_prompt(choice.prompt_logprobs) if self._scored else None
        return CompletionChoice(
            index=index,
            text=text,
            logprobs=told,
            finish_reason=choice.end.reason if choice.end else None,
            stop_reason=choice.end.stop_reason if choice.end else None,
            prompt_logprobs=scored,
        )

    def _shown(
        self, answers: Answers, index: int, piece: Delta, *, first: bool, offset: int = 0
    ) -> tuple[str, CompletionLogprobs | None]:
        """What the client gets of a piece: the first with the prompt before it, where that is to come back too."""
        text, tokens = (piece.text, piece.logprobs) if self._body.max_tokens != 0 else ("", ())
        echoed = first and bool(self._body.echo)
        start = answers.first(index) if echoed else None
        text = self._echo(answers, index) + text if echoed else text
        if self._body.logprobs is None or not (tokens or echoed):
            return text, None
        tokens = (*piece.prompt_logprobs, *tokens) if echoed else tokens
        return text, logprobs.for_completion(tokens, offset, first=start, most=self._body.logprobs)

    def _echo(self, answers: Answers, index: int) -> str:
        """The prompt as text."""
        prompt = self._prompts[index // self._n]
        return prompt if isinstance(prompt, str) else answers.prompt(index)

    async def chunks(self, answers: Answers) -> AsyncGenerator[dict[str, Any], None]:
        head = {
            "id": self._id,
            "object": "text_completion",
            "created": int(time.time()),
            "model": answers.model,
            "system_fingerprint": answers.fingerprint,
        }
        meter = Meter(answers, self._body)
        offsets: dict[int, int] = {}

        def chunk(index: int, text: str, **more: Any) -> dict[str, Any]:
            choice = {"index": index, "text": text, "logprobs": None, "finish_reason": None, "stop_reason": None}
            return {**head, "choices": [{**choice, **more}], **meter.chunk(index)}

        async for index, event in answers.events():
            meter.count(index, event)
            head["system_fingerprint"] = answers.fingerprint  # it changes with an `immediate` replace
            if isinstance(event, Delta):
                first, offset = index not in offsets, offsets.get(index, 0)
                text, told = self._shown(answers, index, event, first=first, offset=offset)
                offsets[index] = told.text_offset[-1] + len(told.tokens[-1]) if told else offset
                yield chunk(index, text, logprobs=told and told.model_dump())
            else:
                yield chunk(index, "", finish_reason=event.reason, stop_reason=event.stop_reason)
        for last in meter.end():
            yield {**head, **last}
