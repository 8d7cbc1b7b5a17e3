"""One answer in the making."""

from __future__ import annotations

from dataclasses import dataclass, field

from loradex.core.mix import Mix
from loradex.core.sampling import Sampling
from loradex.engine.local.activation import Phase
from loradex.engine.local.constraint import Constraint


@dataclass(slots=True, eq=False)
class Sequence:
    """Tokens of one answer, how many of them are in the cache, and where.

    Attributes:
        tokens: prompt, then what was sampled.
        prompt_len: how many of `tokens` are the prompt.
        mix: the weights it runs on, by digest.
        phases: where not all of them act from the first token on: which do from which; else empty.
        seed: of its own random numbers; drawn by the engine where the request gave none.
        computed: tokens whose keys and values lie in `blocks`.
        blocks: cache blocks, in order.
        cached: prompt tokens that the first admission found in the prefix cache; None before it.
        keys: prefix-cache keys of its full blocks, as far as they were worked out.
        request: id of the request it answers; clients may repeat one.
        private: its keys and values come from more than one set of weights, so they are never shared.
        arrival: its number in the order of arrival.
        priority: lower is admitted earlier, and gives way later.
        constraint: where it is in the form that it must have; None for any form.
        ends: tokens that end it beside those of the base.
        wanted: positions of the prompt whose rows are still to be read out; they are computed, whatever is cached.
        embeds: whether their hidden states are read; else their logits, which tell how likely the next token was.
    """

    id: str
    tokens: list[int]
    prompt_len: int
    sampling: Sampling
    mix: Mix[str] = field(default_factory=Mix)
    seed: int = 0
    computed: int = 0
    blocks: list[int] = field(default_factory=list)
    cached: int | None = None
    keys: list[bytes] = field(default_factory=list)
    request: str = ""
    private: bool = False
    arrival: int = 0
    priority: int = 0
    phases: tuple[Phase, ...] = ()
    constraint: Constraint | None = None
    ends: tuple[int, ...] = ()
    wanted: range = range(0)
    embeds: bool = False

    @property
    def pending(self) -> int:
        """Tokens still to compute before the next one can be sampled; 1 while decoding."""
        return len(self.tokens) - self.computed

    @property
    def output_len(self) -> int:
        """Tokens sampled so far."""
        return len(self.tokens) - self.prompt_len

    def acting(self, start: int, end: int) -> list[tuple[Mix[str], int]]:
        """Return which weights act on its tokens from `start` up to `end`, and on how many of them."""
        if not self.phases:
            return [(self.mix, end - start)]
        edges = [*(begin for begin, _ in self.phases[1:]), end]
        return [
            (mix, min(edge, end) - max(begin, start))
            for (begin, mix), edge in zip(self.phases, edges, strict=True)
            if max(begin, start) < min(edge, end)
        ]
