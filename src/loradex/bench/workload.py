"""A workload: which request comes when, on which adapter, with which tokens. Pure and seeded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from loradex.bench.arrival import gamma_arrivals
from loradex.bench.length import Length
from loradex.bench.popularity import assign

PROMPT = Length("fixed", 128, 128)
ANSWER = Length("fixed", 32, 32)
LOWEST_TOKEN = 10
"""Prompts use ids from here on: tokenizers keep their special tokens below."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request. `adapter` is its number or None for the base, `at` the second at which it comes.

    Its prompt is `tokens`, or `text` where there are none.
    """

    index: int
    adapter: int | None
    tokens: tuple[int, ...]
    output: int
    at: float = 0.0
    text: str = ""

    @property
    def prompt(self) -> str | tuple[int, ...]:
        """What is sent."""
        return self.tokens or self.text


@dataclass(frozen=True, slots=True)
class Workload:
    """The law by which requests are made.

    Attributes:
        requests: how many.
        adapters: how many adapters there are to ask for.
        popularity: one of `popularity.NAMES`.
        alpha: of the power law; for `zipf` its exponent.
        input, output: lengths in tokens.
        rate: requests a second; 0 sends all at once.
        cv: coefficient of variation of the gaps.
        vocab_size: prompts hold ids below it.
        seed: equal seeds make equal workloads.
    """

    requests: int
    adapters: int
    popularity: str = "distinct"
    alpha: float = 1.0
    input: Length = PROMPT
    output: Length = ANSWER
    rate: float = 0.0
    cv: float = 1.0
    vocab_size: int = 257
    seed: int = 42

    def make(self) -> list[Request]:
        """Return the requests, in the order in which they come."""
        adapters = assign(self.popularity, self.requests, self.adapters, alpha=self.alpha, seed=self.seed)
        prompts = self.input.draw(self.requests, self.seed + 1)
        outputs = self.output.draw(self.requests, self.seed + 2, prompts)
        at = [0.0] * self.requests
        if self.rate:
            at = gamma_arrivals(self.rate, self.cv, self.requests, self.seed + 3)
        random = np.random.default_rng(self.seed + 4)
        top = max(self.vocab_size - 1, LOWEST_TOKEN + 1)
        return [
            Request(i, adapter, tuple(int(t) for t in random.integers(LOWEST_TOKEN, top, prompt)), output, when)
            for i, (adapter, prompt, output, when) in enumerate(zip(adapters, prompts, outputs, at, strict=True))
        ]

    def base(self) -> Workload:
        """Return the same requests, all on the base."""
        return replace(self, popularity="base")

    def describe(self) -> dict[str, Any]:
        """Return it as plain values, for the record."""
        return asdict(self) | {"input": str(self.input), "output": str(self.output)}


def reassigned(requests: Sequence[Request], adapters: Sequence[int | None]) -> list[Request]:
    """Return the requests on other adapters."""
    return [replace(each, adapter=adapter) for each, adapter in zip(requests, adapters, strict=True)]
