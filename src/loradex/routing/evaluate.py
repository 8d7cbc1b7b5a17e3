"""How good a router is on prompts whose adapter is known."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from loradex.core.adapter import BASE
from loradex.routing.decision import Policy
from loradex.routing.route import Example


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What came out.

    Attributes:
        prompts: how many there were.
        accuracy: share of all prompts decided right; `base` is right where the label says so.
        routed_precision: of the prompts sent to an adapter, the share sent right; None where none was sent to any.
        coverage: share of all prompts sent to an adapter.
        confusion: prompts by label, then by decision.
        latency_ms: time of one decision: `p50`, `p99`.
    """

    prompts: int
    accuracy: float
    routed_precision: float | None
    coverage: float
    confusion: dict[str, dict[str, int]]
    latency_ms: dict[str, float]


def evaluate(policy: Policy, prompts: Sequence[Example], clock: Callable[[], float]) -> Evaluation:
    """Decide on every prompt and count. `clock` gives seconds; `prompts` are not empty."""
    seconds: list[float] = []
    pairs: Counter[tuple[str, str]] = Counter()
    policy.decide(prompts[0].text)  # the first decision of a model prepares it, which is not its pace
    for prompt in prompts:
        began = clock()
        decided = policy.decide(prompt.text).adapter
        seconds.append(clock() - began)
        pairs[prompt.label, decided] += 1
    right = sum(count for (label, decided), count in pairs.items() if label == decided)
    routed = sum(count for (_, decided), count in pairs.items() if decided != BASE)
    routed_right = right - pairs[BASE, BASE]
    slow = statistics.quantiles(seconds, n=100)[98] if len(seconds) > 1 else seconds[0]
    return Evaluation(
        prompts=len(prompts),
        accuracy=right / len(prompts),
        routed_precision=routed_right / routed if routed else None,
        coverage=routed / len(prompts),
        confusion=_table(pairs),
        latency_ms={"p50": statistics.median(seconds) * 1000, "p99": slow * 1000},
    )


def _table(pairs: Counter[tuple[str, str]]) -> dict[str, dict[str, int]]:
    labels = sorted({label for label, _ in pairs}, key=_base_last)
    decided = sorted({name for pair in pairs for name in pair}, key=_base_last)
    return {label: {name: pairs[label, name] for name in decided} for label in labels}


def _base_last(name: str) -> tuple[bool, str]:
    return name == BASE, name
