"""Who should be evicted: replays of made-up traces under several rules; no engine, no clock. Prints ratios to LRU.

Adapters of ranks 8 to 128, sizes in proportion, asked for by a Zipf law that does not depend on the size; where the
popularity drifts, a tenth of the adapters change places now and then. Each rule evicts until the next one fits.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from loradex.service.budget import Lack
from loradex.service.eviction import Held, choose
from loradex.service.usage import Ledger

RANKS = (8, 16, 32, 64, 128)
RANK_BYTES = 1 << 19
"""Bytes of a rank: all seven projections of the Qwen2.5-0.5B shape take twice that."""

Rule = Callable[[Sequence[Held], int], list[Held]]
"""Takes who may go, least recently used first, and the bytes that are short; returns who goes."""


@dataclass(frozen=True)
class Case:
    """One trace: adapters, Zipf's exponent, requests from one drift to the next (0: none), share of bytes that fit."""

    adapters: int
    alpha: float
    drift: int
    share: float

    def requests(self, count: int, seed: int) -> list[int]:
        """Return the adapter of each request."""
        chance = random.Random(seed)
        order = list(range(self.adapters))
        chance.shuffle(order)
        weights = [1 / (place + 1) ** self.alpha for place in order]
        found: list[int] = []
        for index in range(count):
            if self.drift and index % self.drift == self.drift - 1:
                for _ in range(self.adapters // 10):
                    one, other = chance.randrange(self.adapters), chance.randrange(self.adapters)
                    weights[one], weights[other] = weights[other], weights[one]
            found += chance.choices(range(self.adapters), weights)
        return found


CASES = (
    Case(100, 0.9, 0, 0.3),
    Case(100, 0.9, 200, 0.3),
    Case(100, 0.6, 200, 0.3),
    Case(100, 1.2, 100, 0.15),
    Case(500, 0.9, 500, 0.1),
)


def by(score: Callable[[Held, int], float]) -> Rule:
    """Return the rule that lets the lowest scores go; a score sees its adapter and its place by recency."""

    def rule(held: Sequence[Held], short: int) -> list[Held]:
        scores = {each.digest: score(each, place) for place, each in enumerate(held)}
        chosen: list[Held] = []
        for each in sorted(held, key=lambda each: scores[each.digest]):
            if short > 0:
                chosen.append(each)
                short -= each.bytes
        return chosen

    return rule


def chameleon(held: Sequence[Held], short: int) -> list[Held]:
    """Evict by 0.45 frequency + 0.10 recency + 0.45 size, each over the largest (arXiv 2411.17741)."""
    often, large = max(each.frequency for each in held), max(each.bytes for each in held)
    last = max(1, len(held) - 1)
    return by(lambda each, at: 0.45 * each.frequency / often + 0.10 * at / last + 0.45 * each.bytes / large)(
        held, short
    )


RULES: dict[str, Rule] = {
    "LRU": by(lambda each, place: place),
    "Chameleon": chameleon,
    "frequency": by(lambda each, place: each.frequency),
    "ours": lambda held, short: choose(held, Lack(0, short)) or [],
}


def replay(rule: Rule, case: Case, requests: Sequence[int], half_life: int) -> tuple[int, int]:
    """Return misses, and bytes loaded."""
    sizes = [random.Random(1000 + number).choice(RANKS) * RANK_BYTES for number in range(case.adapters)]
    room = int(sum(sizes) * case.share)
    ledger = Ledger(half_life)
    used: dict[int, float] = {}
    misses = loaded = 0
    for time, number in enumerate(requests):
        ledger.leased(str(number), hit=number in used)
        if number not in used:
            misses, loaded = misses + 1, loaded + sizes[number]
            held = [Held(str(each), sizes[each], ledger.frequency(str(each)), at) for each, at in used.items()]
            short = sum(sizes[each] for each in used) + sizes[number] - room
            for each in rule(sorted(held, key=lambda each: each.used_at), short) if short > 0 else ():
                del used[int(each.digest)]
        used[number] = time
    return misses, loaded


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=6000)
    parser.add_argument("--half-life", type=int, default=256)
    parser.add_argument("--seed", type=int, default=3)
    given = parser.parse_args()
    for case in CASES:
        requests = case.requests(given.requests, given.seed)
        counts = {name: replay(rule, case, requests, given.half_life) for name, rule in RULES.items()}
        misses, loaded = counts["LRU"]
        print(case, f"LRU misses {misses / len(requests):.0%}")
        for name, (own, own_bytes) in counts.items():
            print(f"  {name:10} misses {own / misses:.2f}, bytes {own_bytes / loaded:.2f}")


if __name__ == "__main__":
    main()
