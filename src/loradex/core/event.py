"""What an engine hands back: pieces of an answer, then one end."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from loradex.core.mix import Mix

FinishReason = Literal["stop", "length", "abort"]


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token and its natural-log probability before bias, penalties and temperature.

    `text` is what the token says alone: empty where it is part of a character. `top` are the likeliest tokens, best
    first. `rank` tells how many tokens are at least as likely, itself included; 0 where it was not counted.
    """

    token_id: int
    text: str
    logprob: float
    top: tuple[TokenLogprob, ...] = ()
    rank: int = 0


@dataclass(frozen=True, slots=True)
class Delta:
    """The next piece of an answer. `text` may be empty while a character or a stop string is incomplete.

    `logprobs` has one entry a token when they were asked for, else it is empty. `mix` are the weights that chose the
    tokens, by digest. `prompt_logprobs`, in the first piece alone, are those of the prompt's tokens that the request
    wanted scored, in order.
    """

    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...] = ()
    mix: Mix[str] = field(default_factory=Mix)
    prompt_logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Finished:
    """The end of an answer.

    Attributes:
        reason: `stop` (end token, stop token or stop string), `length`, or `abort` (cancelled).
        stop_reason: None for the main end token, the id of another stop token, or the stop string.
        prompt_tokens, completion_tokens, cached_tokens: counts; cached ones were found in the prefix cache.
        mix: the weights on which the answer ended, by digest.
        queue_seconds: from arrival to the first step that worked on it.
        embedding: the mean of the last hidden states of the prompt's tokens, where the request wanted it.
    """

    reason: FinishReason
    stop_reason: int | str | None
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    mix: Mix[str] = field(default_factory=Mix)
    queue_seconds: float = 0.0
    embedding: tuple[float, ...] = ()


Event = Delta | Finished
