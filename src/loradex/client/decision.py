"""What a server's router says of a prompt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Decision:
    """Who should answer (`base` where the router abstains), how sure that is (0 to 1), why, and by which policy.

    `why` says it in one word: `matched`, `general`, `unsure` or `unknown`, of which all but the first mean `base`.
    """

    adapter: str
    score: float
    reason: str
    scores: Mapping[str, float] = field(default_factory=dict)
    policy: str = ""
    why: str = ""
