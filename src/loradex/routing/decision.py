"""What a router says of a prompt, and what every router can do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

Why = Literal["matched", "general", "unsure", "unknown"]


@dataclass(frozen=True, slots=True)
class Decision:
    """Who should answer a prompt, and why.

    Attributes:
        adapter: a name of the routes, or `base` where the router abstains.
        score: confidence in `adapter`, 0 to 1; of a classifier the calibrated probability.
        reason: for people, in one line.
        scores: of every name that was looked at, `base` too where it is one of them.
        why: in one word: it matched, or `base` answers because the prompt is general, because no adapter is likely
            enough, or because nothing in it is known.
    """

    adapter: str
    score: float
    reason: str
    scores: Mapping[str, float] = field(default_factory=dict)
    why: Why = "matched"


class Policy(Protocol):
    """A way to decide. It is not changed after it was made, so threads may share it."""

    def decide(self, text: str) -> Decision:
        """Decide on one prompt."""
        ...
