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
    admitted earlier, though none waits for ever. With `scored_from`, the first `Delta` tells how likely the prompt's
    tokens from that position on were, each after those before it (of the first token, position 0, nothing is known);
    with `sampling.prompt_logprobs`, also their ranks and alternatives. With `embedded`, `Finished` has the prompt's
    vector.
    """

    id: str
    tokens: tuple[int, ...]
    sampling: Sampling
    mix: Mix[str] = field(default_factory=Mix)
    priority: int = 0
    scored_from: int | None = None
    embedded: bool = False

    @property
    def scored(self) -> range:
        """The positions of the prompt's tokens whose log-probabilities are told."""
        return range(0) if self.scored_from is None else range(max(1, self.scored_from), len(self.tokens))
