"""What the service hands to an engine."""

from __future__ import annotations

from dataclasses import dataclass, field

from loradex.core.mix import Mix
from loradex.core.sampling import Sampling


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """One answer to make.

    `tokens` is the whole prompt. The members of `mix` are digests of weights that are resident, and stay so until the
    answer ends. `sampling.max_tokens` is set: the service has fitted it into the context. A lower `priority` is
    admitted earlier, though none waits for ever.
    """

    id: str
    tokens: tuple[int, ...]
    sampling: Sampling
    mix: Mix[str] = field(default_factory=Mix)
    priority: int = 0
