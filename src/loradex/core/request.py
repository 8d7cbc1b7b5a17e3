"""What the service hands to an engine."""

from __future__ import annotations

from dataclasses import dataclass

from loradex.core.sampling import Sampling


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """One answer to make.

    `tokens` is the whole prompt. `adapter` is the digest of weights that are resident, and stay so until the answer
    ends, or None for the base model. `sampling.max_tokens` is set: the service has fitted it into the context.
    """

    id: str
    tokens: tuple[int, ...]
    sampling: Sampling
    adapter: str | None = None
