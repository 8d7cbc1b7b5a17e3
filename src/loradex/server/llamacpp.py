"""llama.cpp: `/lora-adapters`, `lora` in requests, and `/completion`."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from fastapi import APIRouter, Depends, Request, Response

from loradex.core.adapter import Reference
from loradex.core.event import Delta, Finished
from loradex.core.mix import Mix, mix_of
from loradex.errors import InvalidRequest, LoradexError, Unsupported
from loradex.server.answers import Answers
from loradex.server.attend import attended
from loradex.server.auth import may_admin, may_infer
from loradex.server.body import ignored
from loradex.server.dialect import errors, speaking, told
from loradex.server.errors import AsciiJSON, request_id
from loradex.server.sse import EventStream
from loradex.server.state import TheConfig, TheService
from loradex.server.wire.llamacpp import CompletionBody, LlamaError, LlamaErrorReply, LoraAdapter
from loradex.server.wire.selection import ScaledAdapter
from loradex.service.generate import Ask
from loradex.service.service import Service

_REFUSED = ("n_probs", "image_data", "mirostat", "n_keep", "samplers")
"""Fields whose neglect would give another answer than was asked for."""


class Scales:
    """llama.cpp's numbers of adapters, and the scales that hold on `/completion` where a request gives none.

    A number stays with its name as long as the server runs. At first all scales are 0: the base answers.
    """

    def __init__(self) -> None:
        self._names: list[str] = []
        self._scales: dict[str, float] = {}

    def numbered(self, service: Service) -> dict[int, LoraAdapter]:
        """Return the adapters that can answer, by number; new ones come last."""
        cards = {card.id: card for card in service.models() if card.parent is not None}
        self._names += [name for name in cards if name not in self._names]
        return {
            number: LoraAdapter(id=number, path=cards[name].root, scale=self._scales.get(name, 0.0), name=name)
            for number, name in enumerate(self._names)
            if name in cards
        }

    def set(self, given: Sequence[ScaledAdapter], service: Service) -> None:
        """Take new scales; who is not named gets 0. Raises InvalidRequest where a number means nothing."""
        self._scales = {reference.name: weight for reference, weight in self.mix(given, service).members}

    def mix(self, given: Sequence[ScaledAdapter] | None, service: Service) -> Mix[Reference]:
        """Return what scales mean; None takes those that hold. Raises InvalidRequest where a number means nothing."""
        known = self.numbered(service)
        if given is None:
            return mix_of([(Reference(each.name), each.scale) for each in known.values() if each.scale])
        for each in given:
            if each.id not in known:
                hint = "See the numbers with GET /lora-adapters"
                raise InvalidRequest(f"lora has the id {each.id}, which no adapter has", hint=hint, param="lora")
        return mix_of([(Reference(known[each.id].name), each.scale) for each in given if each.scale])


def scaled(given: Sequence[ScaledAdapter], request: Request, service: Service) -> Mix[Reference]:
    """Return what `lora` of a request means."""
    return _scales(request).mix(given, service)


def _scales(request: Request) -> Scales:
    scales: Scales = request.app.state.scales
    return scales


def _body(error: LoradexError, request_id: str = "") -> dict[str, Any]:
    kind = "invalid_request_error" if error.status < 500 else "server_error"
    return LlamaErrorReply(error=LlamaError(code=error.status, message=told(error), type=kind)).model_dump()


router = APIRouter(tags=["llama.cpp"], route_class=speaking(lambda error: AsciiJSON(_body(error), error.status)))


@router.get("/lora-adapters", dependencies=[Depends(may_infer)], responses=errors(LlamaErrorReply))
async def list_lora_adapters(request: Request, service: TheService) -> list[LoraAdapter]:
    """List the adapters with their numbers and scales."""
    return list(_scales(request).numbered(service).values())


@router.post("/lora-adapters", dependencies=[Depends(may_admin)], responses=errors(LlamaErrorReply))
async def set_lora_adapters(body: list[ScaledAdapter] | dict[str, Any], request: Request, service: TheService) -> Any:
    """Set the scales that hold on `/completion` where a request gives none. Answers under way keep theirs."""
    if isinstance(body, dict):
        raise InvalidRequest("Request body must be an array", hint='Send [{"id": 0, "scale": 0.5}]')
    _scales(request).set(body, service)
    return {"success": True}


@router.post(
    "/completion", response_class=Response, dependencies=[Depends(may_infer)], responses=errors(LlamaErrorReply)
)
async def complete(body: CompletionBody, request: Request, service: TheService, config: TheConfig) -> Response:
    """Complete a prompt, at once or as a stream."""
    for name in _REFUSED:
        if (body.model_extra or {}).get(name):
            raise Unsupported(f"`{name}` is not offered by this server", param=name, hint=f"Leave `{name}` out")
    headers = ignored(body, config.strict)
    others = bool(body.model) and body.model not in service.base_names and body.lora is None
    mix = _scales(request).mix([] if others else body.lora, service)
    ask = Ask(body.model, body.text(), body.sampling(), request_id=request_id(request), adapters=mix)
    began = time.monotonic()
    if body.stream:
        answers = await attended(request.receive, Answers.begin(service, [ask]))
        chunks = _chunks(answers, body, began)
        return EventStream(chunks, answers.aclose, headers | answers.headers, done=b"", explain=_body)
    return await attended(request.receive, _whole(service, ask, body, began, headers))


async def _whole(service: Service, ask: Ask, body: CompletionBody, began: float, headers: dict[str, str]) -> Response:
    answers = await Answers.begin(service, [ask])
    texts: list[str] = []
    last: dict[str, Any] = {}
    try:
        async for chunk in _chunks(answers, body, began):
            texts.append(chunk["content"])
            last = chunk
    finally:
        await answers.aclose()
    return AsciiJSON(last | {"content": "".join(texts)}, headers=headers | answers.headers)


async def _chunks(answers: Answers, body: CompletionBody, began: float) -> AsyncGenerator[dict[str, Any], None]:
    prompt, tokens, first, broken = answers.prompt_tokens(0), 0, 0.0, False
    async for _, event in answers.events():
        first = first or time.monotonic()
        if isinstance(event, Delta):
            tokens += len(event.token_ids)
            broken = broken or "\n" in event.text
            counts = {"tokens_predicted": tokens, "tokens_evaluated": prompt}
            yield {"index": 0, "content": event.text, "tokens": list(event.token_ids), "stop": False} | counts
        else:
            end = _end(event, answers, body, first - began, time.monotonic() - first)
            yield end | {"has_new_line": broken}


def _end(
    event: Finished, answers: Answers, body: CompletionBody, prompt_seconds: float, seconds: float
) -> dict[str, Any]:
    word = event.stop_reason if isinstance(event.stop_reason, str) else ""
    kind = {"length": "limit", "stop": "word" if word else "eos"}.get(event.reason, "none")
    new = event.prompt_tokens - event.cached_tokens
    return {
        "index": 0,
        "content": "",
        "tokens": [],
        "id_slot": -1,
        "stop": True,
        "model": answers.model,
        "tokens_predicted": event.completion_tokens,
        "tokens_evaluated": event.prompt_tokens,
        "generation_settings": body.model_dump(exclude={"prompt", "model"}),
        "prompt": body.prompt,
        "truncated": False,
        "stop_type": kind,
        "stopping_word": word,
        "tokens_cached": event.cached_tokens,
        "timings": {
            **_speed("prompt", new, prompt_seconds),
            **_speed("predicted", event.completion_tokens, seconds),
        },
    }


def _speed(what: str, tokens: int, seconds: float) -> dict[str, float]:
    milliseconds = seconds * 1e3
    return {
        f"{what}_n": tokens,
        f"{what}_ms": milliseconds,
        f"{what}_per_token_ms": milliseconds / tokens if tokens else 0.0,
        f"{what}_per_second": tokens / seconds if seconds else 0.0,
    }
