"""What several sides say to one prompt, as the client hands it out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from loradex.client.decision import Decision


@dataclass(frozen=True, slots=True)
class Token:
    """A token with its natural-log probability."""

    text: str
    logprob: float
    top: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Scored:
    """How likely a side finds the reference answer; `perplexity` is exp of the negative mean, less is better."""

    tokens: tuple[Token, ...]
    mean_logprob: float
    perplexity: float | None


@dataclass(frozen=True, slots=True)
class SideFailure:
    """Why a side has no answer."""

    code: str
    message: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Side:
    """What one side said; with `error`, nothing else is known of it.

    Attributes:
        side, adapter: who was asked, and who answered (`medical@3`, a mix, or `base`).
        ttft_seconds, seconds: from the moment all sides began to its first token, and to its end.
        tokens_per_second: after its first token.
        route: why `auto` took this adapter.
        agreement, difference: with the first side that answered: twice the words that both have in order, by the words
            of both (0 to 1), and runs of words that are in both (`same`), only in the first's (`missing`) or only in
            this one's answer (`added`).
    """

    side: str
    adapter: str = ""
    text: str = ""
    finish_reason: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    ttft_seconds: float | None = None
    seconds: float | None = None
    tokens_per_second: float | None = None
    mean_logprob: float | None = None
    tokens: tuple[Token, ...] = ()
    route: Decision | None = None
    reference: Scored | None = None
    agreement: float | None = None
    difference: tuple[tuple[str, str], ...] = ()
    error: SideFailure | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """What all sides said. `agreement` is the mean over all pairs, `first` the side that the others are held against.

    `together` says whether all of them began in one batch.
    """

    sides: tuple[Side, ...]
    together: bool = True
    agreement: float | None = None
    first: str | None = None
    id: str = ""


@dataclass(frozen=True, slots=True)
class CompareEvent:
    """One event of a comparison that streams, of the side `index`; the last one, `compared`, has everything.

    `begin` says which `adapter` answers and by which `route`, `text` has the next piece, `end` the whole `side`.
    """

    type: Literal["begin", "text", "end", "compared"]
    index: int = 0
    text: str = ""
    adapter: str = ""
    route: Decision | None = None
    side: Side | None = None
    comparison: Comparison | None = None
