"""LoRAX (and TGI's): `/generate`, `/generate_stream` and `POST /`, and `adapter_id` in any request."""

from __future__ import annotations

import re
import time
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import Any

from fastapi import APIRouter, Depends, Request, Response

from loradex.core.adapter import Reference, check_name
from loradex.core.event import Finished, TokenLogprob
from loradex.core.mix import Mix, mix_of, parse_mix
from loradex.errors import InvalidRequest, LoradexError, Unsupported
from loradex.server.answers import Answers, Choice
from loradex.server.attend import attended
from loradex.server.auth import may_infer
from loradex.server.body import ignored
from loradex.server.dialect import errors, speaking, told
from loradex.server.errors import AsciiJSON, request_id
from loradex.server.logprobs import finite
from loradex.server.sse import EventStream
from loradex.server.state import TheConfig, TheService
from loradex.server.tensorrt_llm import place
from loradex.server.wire.lorax import Alternative, Details, FullDetails, GenerateBody, Generated, LoraxError, Token
from loradex.server.wire.selection import LoraxFields, MergedAdapters
from loradex.service.generate import Ask
from loradex.service.service import Service

BASE_ADAPTER = "__base_model__"
"""What LoRAX calls no adapter."""

_SOURCES = {"hub": "hf://{}", "local": "{}", "s3": "s3://{}"}
_FAILED = {"model_not_found", "adapter_not_found", "adapter_files_not_found", "adapter_invalid", "adapter_too_large"}
"""Codes of ours for what LoRAX finds out when it loads an adapter: 424, an error of the generation."""


async def named(given: LoraxFields, request: Request, service: Service) -> Mix[Reference]:
    """Return what `adapter_id` or `merged_adapters` mean.

    An id is a name, or a mix of names; with `adapter_source`, or with a slash, it is a place (on the Hub where no
    source is said), which is registered under its own name with dashes for slashes.

    Raises:
        InvalidRequest: it is none, or both are given.
        Unsupported: a source or a way of merging is not offered.
        LoradexError: whatever `place` raises.
    """
    if given.merged_adapters is not None:
        if given.adapter_id:
            raise InvalidRequest("adapter_id and merged_adapters exclude one another", param="merged_adapters")
        return _merged(given.merged_adapters)
    if given.adapter_source and not given.adapter_id:
        raise InvalidRequest("adapter_source needs adapter_id", param="adapter_source")
    text = given.adapter_id or BASE_ADAPTER
    if text == BASE_ADAPTER:
        return Mix()
    if not given.adapter_source and "/" not in text:
        return parse_mix(text)
    source = (given.adapter_source or "hub").lower()
    if source not in _SOURCES:
        hint = f"Offered are {', '.join(_SOURCES)}; or add the adapter first and send its name"
        raise Unsupported(f"adapter_source {source[:64]!r} is not offered", hint=hint, param="adapter_source")
    if "/" not in text and source == "hub":
        return parse_mix(text)
    name = check_name(re.sub(r"[^A-Za-z0-9._-]+", "--", text.partition("://")[2] or text).strip("-._"))
    where = text if "://" in text else _SOURCES[source].format(text)
    return Mix.of(await place(name, where, request, service))


def _merged(given: MergedAdapters) -> Mix[Reference]:
    method = given.merge_strategy or "linear"
    if method != "linear":
        members = " ".join(f"NAME{i + 1}" for i in range(len(given.ids)))
        raise Unsupported(
            f"merge_strategy {method[:64]!r} is not offered in a request; only `linear` is, as an exact sum",
            hint=f"Merge them once (`loradex adapter merge {members} --method {method[:32]} --as NAME`), and name that",
            param="merged_adapters.merge_strategy",
        )
    weights = given.weights or [1.0] * len(given.ids)
    if len(weights) != len(given.ids):
        said = f"merged_adapters has {len(given.ids)} ids and {len(weights)} weights"
        raise InvalidRequest(said, hint="Give one weight for each id, or none", param="merged_adapters")
    return mix_of([(Reference.parse(each), weight) for each, weight in zip(given.ids, weights, strict=True)])


def _body(error: LoradexError, request_id: str = "") -> dict[str, Any]:
    if error.code in _FAILED:
        kind = "generation"
    else:
        kind = "overloaded" if error.code == "overloaded" else "validation" if error.status < 500 else "generation"
    return LoraxError(error=told(error), error_type=kind).model_dump()


def _refused(error: LoradexError) -> Response:
    changed = {400: 422, 404: 424} | dict.fromkeys((503,), 429 if error.code == "overloaded" else 503)
    status = 424 if error.code in _FAILED else changed.get(error.status, error.status)
    return AsciiJSON(_body(error), status)


router = APIRouter(tags=["LoRAX"], route_class=speaking(_refused), dependencies=[Depends(may_infer)])


@router.post("/generate", response_model=Generated, responses=errors(LoraxError))
async def generate(body: GenerateBody, request: Request, service: TheService, config: TheConfig) -> Response:
    """Go on from a prompt."""
    call = await _Call.of(body, request, service, config.strict)
    return await attended(request.receive, call.whole())


@router.post("/generate_stream", response_class=Response, responses=errors(LoraxError))
async def generate_stream(body: GenerateBody, request: Request, service: TheService, config: TheConfig) -> Response:
    """Go on from a prompt, token by token."""
    call = await _Call.of(body, request, service, config.strict, tokens=True)
    return await call.stream(request)


@router.post(
    "/",
    response_model=list[Generated],
    responses={200: {"content": {"text/event-stream": {}}}, **errors(LoraxError)},
)
async def compat_generate(body: GenerateBody, request: Request, service: TheService, config: TheConfig) -> Response:
    """Go on from a prompt: a list of one answer, or with `stream` its tokens."""
    call = await _Call.of(body, request, service, config.strict, tokens=body.stream)
    if body.stream:
        return await call.stream(request)
    return await attended(request.receive, call.whole(listed=True))


@dataclass(slots=True)
class _Call:
    """One request."""

    body: GenerateBody
    service: Service
    ask: Ask
    headers: Mapping[str, str]
    began: float = field(default_factory=time.monotonic)

    @classmethod
    async def of(
        cls, body: GenerateBody, request: Request, service: Service, strict: bool, *, tokens: bool = False
    ) -> _Call:
        """Read a request; `tokens` asks for each of them, as details do."""
        parameters = body.parameters
        sampling = parameters.sampling(tokens=tokens or parameters.details)
        mix = await named(parameters, request, service)
        ask = Ask(None, body.prompt(), sampling, request_id=request_id(request), adapters=mix)
        said = {
            "x-compute-type": service.info.device,
            "x-compute-characters": str(len(body.inputs)),
            "x-model-id": service.info.id,
        }
        if mix.members:
            ids = parameters.merged_adapters.ids if parameters.merged_adapters else [str(parameters.adapter_id)]
            source = parameters.adapter_source or ("hub" if "/" in ids[0] else "local")
            said |= {"x-adapter-id": ascii(",".join(ids))[1:-1], "x-adapter-source": ascii(source)[1:-1]}
        return cls(body, service, ask, said | ignored(body, strict) | ignored(parameters, strict))

    async def whole(self, *, listed: bool = False) -> Response:
        answers = await Answers.begin(self.service, [self.ask])
        try:
            [choice] = await answers.collect()
        finally:
            await answers.aclose()
        reply = Generated(generated_text=self._full(choice.text), details=self._details(choice))
        value: Any = reply.model_dump(exclude_none=True)
        headers = {**self.headers, **answers.headers, **self._times(choice.end)}
        return AsciiJSON([value] if listed else value, headers=headers)

    async def stream(self, request: Request) -> Response:
        answers = await attended(request.receive, Answers.begin(self.service, [self.ask]))
        headers = {**self.headers, **answers.headers}
        return EventStream(self._tokens(answers), answers.aclose, headers, done=b"", explain=_body)

    async def _tokens(self, answers: Answers) -> AsyncGenerator[dict[str, Any], None]:
        """Yield the tokens. The last one carries the whole text, so each waits for the next."""
        texts: list[str] = []
        held: Token | None = None
        async for _, event in answers.events():
            if isinstance(event, Finished):
                ended = event.stop_reason if type(event.stop_reason) is int else 0
                token = held or Token(id=ended, text="", logprob=0)
                details = self._end(event).model_dump() if self.body.parameters.details else None
                yield _event(token, self._full("".join(texts)), details)
                return
            texts.append(event.text)
            for each in event.logprobs:
                if held is not None:
                    yield _event(held)
                held = _token(each)

    def _full(self, text: str) -> str:
        return self.body.inputs + text if self.body.parameters.return_full_text else text

    def _details(self, choice: Choice) -> FullDetails | None:
        if not self.body.parameters.details or choice.end is None:
            return None
        return FullDetails(**self._end(choice.end).model_dump(), tokens=[_token(each) for each in choice.logprobs])

    def _end(self, end: Finished) -> Details:
        stopped = "stop_sequence" if isinstance(end.stop_reason, str) else "eos_token"
        return Details(
            finish_reason="length" if end.reason == "length" else stopped,  # type: ignore[arg-type]
            prompt_tokens=end.prompt_tokens,
            generated_tokens=end.completion_tokens,
            seed=self.ask.sampling.seed,
        )

    def _times(self, end: Finished | None) -> dict[str, str]:
        total = time.monotonic() - self.began
        prompt, tokens = (end.prompt_tokens, end.completion_tokens) if end is not None else (0, 0)
        queued = end.queue_seconds if end is not None else 0.0
        counts = {"x-prompt-tokens": prompt, "x-generated-tokens": tokens, "x-total-tokens": prompt + tokens}
        seconds = {"compute": total, "total": total, "validation": 0.0, "queue": queued, "inference": total - queued}
        times = {f"x-{name}-time": int(each * 1e3) for name, each in seconds.items()}
        each = int((total - queued) * 1e3 / tokens) if tokens else 0
        return {name: str(value) for name, value in (counts | times | {"x-time-per-token": each}).items()}


def _token(token: TokenLogprob) -> Token:
    top = [Alternative(id=each.token_id, text=each.text, logprob=finite(each.logprob)) for each in token.top]
    return Token(id=token.token_id, text=token.text, logprob=finite(token.logprob), alternative_tokens=top or None)


def _event(token: Token, text: str | None = None, details: Any = None) -> dict[str, Any]:
    return {"token": token.model_dump(exclude_none=True), "generated_text": text, "details": details}
