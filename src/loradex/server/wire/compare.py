"""Bodies of `/api/compare`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, Field

from loradex.core.event import TokenLogprob
from loradex.core.prompt import ChatPrompt, Message, Prompt
from loradex.errors import InvalidRequest, LoradexError
from loradex.server.logprobs import finite
from loradex.server.wire.chat import ChatMessage
from loradex.server.wire.route import RouteReply
from loradex.server.wire.sampling import MaxLogprobs, SamplingFields
from loradex.service.agreement import agreement, difference, mean_agreement
from loradex.service.compare import MAX_SIDES, SideAnswer, perplexity


class CompareBody(SamplingFields):
    """One prompt, and who is to answer it. Fields of sampling are those of completions."""

    prompt: Annotated[str, Field(min_length=1)] | None = Field(
        None, description="A question; with a base that has no chat template, a text to go on from"
    )
    messages: Annotated[list[ChatMessage], Field(min_length=1)] | None = None
    sides: Annotated[list[str], Field(min_length=1, max_length=MAX_SIDES)] = Field(
        description="Each is what `model` may be: an adapter, `name@3`, a mix, `base` or `auto`"
    )
    reference: str | None = Field(None, description="A good answer; each side tells how likely it finds it")
    top_logprobs: MaxLogprobs | None = None

    def check(self) -> None:
        """Check what no single field can tell.

        Raises:
            InvalidRequest: fields exclude one another.
        """
        super().check()
        for name in ("model", "adapters", "n"):
            if getattr(self, name) is not None:
                raise InvalidRequest(f"`{name}` has no meaning here", hint="Name who answers in `sides`", param=name)
        if (self.prompt is None) == (self.messages is None):
            raise InvalidRequest("A comparison has either `prompt` or `messages`", param="prompt")

    def asked(self, *, chat: bool) -> Prompt:
        """Return the prompt. A text becomes a question where the base can `chat`.

        Raises:
            InvalidRequest: a message is malformed.
        """
        if self.messages is not None:
            return ChatPrompt(tuple(each.message(f"messages.{index}") for index, each in enumerate(self.messages)))
        text = self.prompt or ""
        return ChatPrompt((Message("user", text),)) if chat else text


class TokenReply(BaseModel):
    """A token with its natural-log probability, and the likeliest ones where they were asked for."""

    text: str
    logprob: float
    top: dict[str, float] = {}

    @classmethod
    def of(cls, token: TokenLogprob) -> TokenReply:
        """Return the reply for a token."""
        top = {each.text: finite(each.logprob) for each in token.top}
        return cls(text=token.text, logprob=finite(token.logprob), top=top)


class ReferenceReply(BaseModel):
    """How likely a side finds the reference answer."""

    tokens: list[TokenReply]
    mean_logprob: float
    perplexity: float | None = Field(description="exp of the negative mean; null where it is beyond any number")


class SideFailure(BaseModel):
    """Why a side has no answer."""

    code: str
    message: str
    hint: str


class SideReply(BaseModel):
    """What one side said; with `error`, nothing else is known of it."""

    side: str
    adapter: str = Field(default="", description="Who answered: `medical@3`, a mix, or `base`")
    text: str = ""
    finish_reason: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    ttft_seconds: float | None = Field(default=None, description="From the moment all sides began to its first token")
    seconds: float | None = Field(default=None, description="From then to its end")
    tokens_per_second: float | None = Field(default=None, description="After its first token")
    mean_logprob: float | None = None
    tokens: list[TokenReply] = []
    route: RouteReply | None = Field(default=None, description="Why `auto` took this adapter")
    reference: ReferenceReply | None = None
    agreement: float | None = Field(default=None, description="With the first side that answered, 0 to 1")
    difference: list[tuple[Literal["same", "missing", "added"], str]] = Field(
        default=[], description="Runs of words against the first side that answered"
    )
    error: SideFailure | None = None

    @classmethod
    def failed(cls, side: str, error: LoradexError) -> SideReply:
        """Return the reply for a side without an answer."""
        return cls(side=side, error=SideFailure(code=error.code, message=error.message, hint=error.hint))

    @classmethod
    def of(cls, side: str, said: SideAnswer) -> SideReply:
        """Return the reply for an answer."""
        return cls(
            side=side,
            adapter=str(said.mix),
            text=said.text,
            finish_reason=said.finish_reason,
            prompt_tokens=said.prompt_tokens,
            completion_tokens=len(said.tokens),
            ttft_seconds=said.ttft_seconds,
            seconds=said.seconds,
            tokens_per_second=said.tokens_per_second,
            mean_logprob=_mean(said.tokens),
            tokens=[TokenReply.of(each) for each in said.tokens],
            route=RouteReply.of(said.routed) if said.routed is not None else None,
            reference=_reference(said),
        )


class CompareReply(BaseModel):
    """What all sides said, in the order in which they were asked."""

    id: str
    sides: list[SideReply]
    together: bool = Field(description="Whether all of them began in one batch")
    agreement: float | None = Field(description="Mean over all pairs of answers; null for fewer than two")
    first: str | None = Field(description="The side against which `agreement` and `difference` of each are")

    @classmethod
    def of(cls, compare_id: str, sides: Sequence[SideReply], together: bool) -> CompareReply:
        """Return the reply, with what the answers have in common worked out. Takes a while for long answers."""
        answered = [side for side in sides if side.error is None]
        for side in answered[1:]:
            side.agreement = agreement(answered[0].text, side.text)
            side.difference = list(difference(answered[0].text, side.text))
        return cls(
            id=compare_id,
            sides=list(sides),
            together=together,
            agreement=mean_agreement([side.text for side in answered]),
            first=answered[0].side if answered else None,
        )


def _reference(said: SideAnswer) -> ReferenceReply | None:
    if not said.reference:
        return None
    tokens = [TokenReply.of(each) for each in said.reference]
    logprobs = [each.logprob for each in tokens]
    found = perplexity(logprobs)
    return ReferenceReply(
        tokens=tokens,
        mean_logprob=sum(logprobs) / len(logprobs),
        perplexity=found if found is not None and math.isfinite(found) else None,
    )


def _mean(tokens: Sequence[TokenLogprob]) -> float | None:
    return sum(finite(each.logprob) for each in tokens) / len(tokens) if tokens else None
