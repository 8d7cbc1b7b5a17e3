"""Log-probabilities in the two shapes that OpenAI gives them."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel

from loradex.core.event import TokenLogprob

FLOOR = -9999.0
"""JSON has no infinity; vLLM writes this in its place."""


class ChatTop(BaseModel):
    """One likely token. `bytes` is empty where the token is only part of a character."""

    token: str
    logprob: float
    bytes: list[int] | None


class ChatToken(ChatTop):
    """A token of the answer, with the likeliest alternatives."""

    top_logprobs: list[ChatTop]


class ChatLogprobs(BaseModel):
    """Log-probabilities of a chat answer."""

    content: list[ChatToken] | None


class CompletionLogprobs(BaseModel):
    """Log-probabilities of a completion: four lists with one entry a token; offsets count characters."""

    text_offset: list[int]
    token_logprobs: list[float | None]
    tokens: list[str]
    top_logprobs: list[dict[str, float] | None]


def for_chat(tokens: Sequence[TokenLogprob]) -> ChatLogprobs:
    """Return the shape of chat completions."""
    return ChatLogprobs(
        content=[
            ChatToken(
                token=each.text,
                logprob=finite(each.logprob),
                bytes=list(each.text.encode()),
                top_logprobs=[
                    ChatTop(token=top.text, logprob=finite(top.logprob), bytes=list(top.text.encode()))
                    for top in each.top
                ],
            )
            for each in tokens
        ]
    )


def for_completion(tokens: Sequence[TokenLogprob], offset: int = 0) -> CompletionLogprobs:
    """Return the shape of completions; the first token begins at character `offset`.

    The chosen token is always among the alternatives, so there may be one more than was asked for.
    """
    offsets = []
    for each in tokens:
        offsets.append(offset)
        offset += len(each.text)
    return CompletionLogprobs(
        text_offset=offsets,
        token_logprobs=[finite(each.logprob) for each in tokens],
        tokens=[each.text for each in tokens],
        top_logprobs=[_alternatives(each) for each in tokens],
    )


def _alternatives(token: TokenLogprob) -> dict[str, float]:
    told: dict[str, float] = {token.text: finite(token.logprob)}
    for top in token.top:
        # Parts of characters are all "" in text; the chosen one is what counts.
        told.setdefault(top.text, finite(top.logprob))
    return told


def finite(logprob: float) -> float:
    """Return what JSON can hold of a log-probability."""
    return max(logprob, FLOOR) if logprob == logprob else FLOOR
