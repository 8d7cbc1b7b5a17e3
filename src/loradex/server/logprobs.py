"""Log-probabilities in the two shapes that OpenAI gives them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, islice

from pydantic import BaseModel

from loradex.core.event import TokenLogprob
from loradex.core.sampling import MAX_LOGPROBS

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


class PromptLogprob(BaseModel):
    """What is known of a token at one place of the prompt: `rank` counts from 1."""

    logprob: float
    rank: int
    decoded_token: str


PromptLogprobs = list[dict[int, PromptLogprob] | None]
"""vLLM's `prompt_logprobs`: for each token of the prompt itself and the likeliest ones, by id; null for the first."""


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


def for_completion(
    tokens: Sequence[TokenLogprob], offset: int = 0, *, first: str | None = None, most: int = MAX_LOGPROBS
) -> CompletionLogprobs:
    """Return the shape of completions; the first token begins at character `offset`.

    `first` is a token before them of which nothing is known, as that at the start of a prompt. The chosen token is
    always among the alternatives, so there may be one more than `most`.
    """
    texts = [*(() if first is None else (first,)), *(each.text for each in tokens)]
    unknown = [None] * (len(texts) - len(tokens))
    return CompletionLogprobs(
        text_offset=list(accumulate(map(len, texts[:-1]), initial=offset)) if texts else [],
        token_logprobs=[*unknown, *(finite(each.logprob) for each in tokens)],
        tokens=texts,
        top_logprobs=[*unknown, *(_alternatives(each, most) for each in tokens)],
    )


def for_prompt(tokens: Sequence[TokenLogprob]) -> PromptLogprobs:
    """Return the shape of `prompt_logprobs`, from what is known of the tokens after the first."""
    return [None, *map(_ranked, tokens)]


def _alternatives(token: TokenLogprob, most: int) -> dict[str, float]:
    told: dict[str, float] = {token.text: finite(token.logprob)}
    for top in token.top:
        # Parts of characters are all "" in text; the chosen one is what counts.
        told.setdefault(top.text, finite(top.logprob))
    return dict(islice(told.items(), most + 1))


def _ranked(token: TokenLogprob) -> dict[int, PromptLogprob]:
    told = {token.token_id: PromptLogprob(logprob=finite(token.logprob), rank=token.rank, decoded_token=token.text)}
    for rank, top in enumerate(token.top, 1):
        likely = PromptLogprob(logprob=finite(top.logprob), rank=rank, decoded_token=top.text)
        told.setdefault(top.token_id, likely)
    return told


def finite(logprob: float) -> float:
    """Return what JSON can hold of a log-probability."""
    return max(logprob, FLOOR) if logprob == logprob else FLOOR
