"""Fit what was asked into the context and the vocabulary of the model."""

from __future__ import annotations

from dataclasses import replace

from loradex.core.model import ModelInfo
from loradex.core.sampling import Sampling
from loradex.errors import ContextLengthExceeded, InvalidRequest


def fit(sampling: Sampling, prompt_tokens: int, model: ModelInfo) -> Sampling:
    """Return `sampling` with `max_tokens` set to what fits beside the prompt, or to less where less was asked.

    Raises:
        InvalidRequest: the prompt is empty, or a token id is none of the model's: it would break the step of others.
        ContextLengthExceeded: the prompt leaves no room, `max_tokens` is above the whole context, or `min_tokens` do
            not fit beside the prompt.
    """
    if not prompt_tokens:
        raise InvalidRequest("The prompt is empty", param="prompt")
    for name in ("stop_token_ids", "logit_bias"):
        for token in getattr(sampling, name):
            if not 0 <= token < model.vocab_size:
                raise InvalidRequest(
                    f"{name} has the token id {token}; the model has {model.vocab_size} tokens", param=name
                )
    max_model_len = model.max_model_len
    room = max_model_len - prompt_tokens
    if room < 1:
        raise ContextLengthExceeded(
            f"The prompt has {prompt_tokens} tokens; the context of {max_model_len} leaves no room for an answer",
            param="prompt",
        )
    if sampling.max_tokens is not None and sampling.max_tokens > max_model_len:
        raise ContextLengthExceeded(
            f"max_tokens is {sampling.max_tokens}; the context holds {max_model_len} tokens", param="max_tokens"
        )
    if sampling.min_tokens > room:
        raise ContextLengthExceeded(
            f"min_tokens is {sampling.min_tokens}; beside the prompt of {prompt_tokens} tokens the context of "
            f"{max_model_len} leaves {room}",
            param="min_tokens",
        )
    return replace(sampling, max_tokens=min(sampling.max_tokens or room, room))


def seeded(sampling: Sampling, index: int) -> Sampling:
    """Return the parameters of answer `index` of several: its seed is `seed + index`, within 64 bits."""
    if sampling.seed is None or index == 0:
        return sampling
    return replace(sampling, seed=(sampling.seed + index + 2**63) % 2**64 - 2**63)
