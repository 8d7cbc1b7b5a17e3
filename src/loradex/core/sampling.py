"""How the next token is chosen and when an answer ends; checked once, here."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from loradex.core.grammar import Grammar
from loradex.errors import InvalidRequest

MAX_LOGPROBS = 20
MAX_STOPS = 16


@dataclass(frozen=True, slots=True)
class Sampling:
    """Sampling parameters of one answer, with the meanings that OpenAI and vLLM give them.

    Attributes:
        temperature: 0 means greedy; at most 2.
        top_p: smallest set of tokens whose probabilities reach it, in (0, 1].
        top_k: number of likeliest tokens kept; 0 or -1 keeps all.
        min_p: tokens below this share of the likeliest one's probability are dropped, in [0, 1].
        repetition_penalty: > 0; divides (positive) or multiplies (negative) logits of tokens seen in prompt or answer.
        presence_penalty, frequency_penalty: in [-2, 2]; over the answer's tokens only.
        seed: makes the answer reproducible, whatever else is in the batch.
        max_tokens: tokens of the answer; None is what the context leaves.
        min_tokens: end and stop tokens are forbidden before so many.
        stop: strings that end the answer; not part of it unless `include_stop`.
        stop_token_ids: token ids that end the answer.
        ignore_eos: go on after the model's end token.
        logprobs: None for none, else how many alternatives to report beside the chosen token.
        prompt_logprobs: the same of the prompt's tokens.
        logit_bias: token id to a number in [-100, 100], added to its logit.
        skip_special_tokens: leave special tokens out of the text.
        grammar: the form that the answer must have. It alone says when the answer is complete, so that `min_tokens`
            cannot go with it and `ignore_eos` changes nothing.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None
    max_tokens: int | None = None
    min_tokens: int = 0
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    include_stop: bool = False
    ignore_eos: bool = False
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    skip_special_tokens: bool = True
    grammar: Grammar | None = None

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is always taken."""
        return self.temperature == 0.0

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            InvalidRequest: naming the field, its value and the allowed range.
        """
        _within("temperature", self.temperature, 0, 2)
        _within("top_p", self.top_p, 0, 1, open_low=True)
        _within("top_k", self.top_k, -1, 2**31)
        _within("min_p", self.min_p, 0, 1)
        _within("repetition_penalty", self.repetition_penalty, 0, 100, open_low=True)
        _within("presence_penalty", self.presence_penalty, -2, 2)
        _within("frequency_penalty", self.frequency_penalty, -2, 2)
        if self.seed is not None:
            _within("seed", self.seed, -(2**63), 2**63 - 1)
        if self.max_tokens is not None:
            _within("max_tokens", self.max_tokens, 1, 2**31)
        _within("min_tokens", self.min_tokens, 0, 2**31)
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise InvalidRequest(
                f"min_tokens is {self.min_tokens}, above max_tokens, which is {self.max_tokens}", param="min_tokens"
            )
        if self.min_tokens and self.grammar is not None:
            raise InvalidRequest(
                f"min_tokens is {self.min_tokens}, and {self.grammar.param} says when the answer is complete",
                hint="Leave `min_tokens` out",
                param="min_tokens",
            )
        for name in ("logprobs", "prompt_logprobs"):
            if getattr(self, name) is not None:
                _within(name, getattr(self, name), 0, MAX_LOGPROBS)
        if len(self.stop) > MAX_STOPS:
            raise InvalidRequest(f"stop has {len(self.stop)} strings; at most {MAX_STOPS} are allowed", param="stop")
        if any(not text for text in self.stop):
            raise InvalidRequest("stop holds an empty string, which would end every answer at once", param="stop")
        for token, bias in self.logit_bias.items():
            _within("logit_bias", bias, -100, 100)
            _within("logit_bias", token, 0, 2**31)


def _within(name: str, value: float, low: float, high: float, *, open_low: bool = False) -> None:
    if not math.isfinite(value) or value > high or value < low or (open_low and value == low):
        floor = f"above {low:g}" if open_low else f"at least {low:g}"
        raise InvalidRequest(f"{name} is {value}; it must be {floor} and at most {high:g}", param=name)
