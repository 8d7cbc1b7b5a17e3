"""How long prompts and answers are, in tokens: fixed, uniform, or Punica's lognormal."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from loradex.errors import ConfigInvalid

Kind = Literal["fixed", "uniform", "lognormal", "rest"]

PUNICA_SIGMA: Final = 0.8
PUNICA_LOC: Final = -1.0
PUNICA_SCALE: Final = 18.0


@dataclass(frozen=True, slots=True)
class Length:
    """A law of lengths.

    `fixed`: always `low`. `uniform`: from `low` up to, not with, `high`. `lognormal`: Punica's prompts, clipped to
    [1, high - 2]. `rest`: Punica's answers, what is left of a total that is uniform below `high`, at least 2.
    """

    kind: Kind
    low: int = 1
    high: int = 2048

    @classmethod
    def parse(cls, text: str) -> Length:
        """Read `128`, `8-512`, `lognormal:2048` or `rest:2048`.

        Raises:
            ConfigInvalid: it is none of these.
        """
        span = re.fullmatch(r"(\d+)(?:-(\d+))?", text)
        law = re.fullmatch(r"(lognormal|rest)(?::(\d+))?", text)
        if span and not span[2] and int(span[1]):
            return cls("fixed", int(span[1]), int(span[1]))
        if span and span[2] and 0 < int(span[1]) < int(span[2]):
            return cls("uniform", int(span[1]), int(span[2]))
        if law and int(law[2] or 2048) > 3:
            return cls("lognormal" if law[1] == "lognormal" else "rest", 1, int(law[2] or 2048))
        raise ConfigInvalid(f"{text!r} is not a length", hint="Write `128`, `8-512`, `lognormal:2048` or `rest:2048`")

    def __str__(self) -> str:
        if self.kind == "fixed":
            return str(self.low)
        return f"{self.low}-{self.high}" if self.kind == "uniform" else f"{self.kind}:{self.high}"

    def draw(self, count: int, seed: int, prompts: list[int] | None = None) -> list[int]:
        """Return `count` lengths; `prompts` are those of the same requests, which `rest` needs."""
        random = np.random.default_rng(seed)
        if self.kind == "fixed":
            return [self.low] * count
        if self.kind == "uniform":
            return [int(x) for x in random.integers(self.low, self.high, count)]
        if self.kind == "lognormal":
            drawn = random.lognormal(0.0, PUNICA_SIGMA, count) * PUNICA_SCALE + PUNICA_LOC
            return [int(x) for x in np.clip(drawn, 1, self.high - 2)]
        totals = random.integers(0, self.high, count)
        return [max(p + 2, int(t)) - p for p, t in zip(prompts or [1] * count, totals, strict=True)]
