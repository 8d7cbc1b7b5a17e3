"""One run of a load: throughput, and TTFT, TPOT, ITL and E2EL, named as `vllm bench serve` names them."""

from __future__ import annotations

import statistics
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from loradex.bench.deck import Tell
from loradex.bench.pairs import percentile
from loradex.bench.play import Played, Timeline, play
from loradex.bench.target import Target
from loradex.bench.workload import Request

SHARE = 99


@dataclass(frozen=True, slots=True)
class Measured:
    """What a run came to.

    Attributes:
        played: every answer, with the time of each piece.
        concurrency: requests under way at once at most; 0 for no limit.
        rate: requests a second; 0 for all at once.
        adapters: the name that each request asked for.
    """

    played: Played
    concurrency: int
    rate: float
    adapters: tuple[str, ...]

    @property
    def latencies(self) -> dict[str, list[float]]:
        """Seconds: to the first token, for each further token, between pieces, and to the end, of each answer."""
        answers = self.played.answers
        return {
            "ttft": self.played.ttfts,
            "tpot": [_tpot(each) for each in answers if sum(each.counts) > 1],
            "itl": self.played.gaps,
            "e2el": [each.times[-1] - each.sent for each in answers if each.times],
        }

    def describe(self) -> dict[str, Any]:
        """Return it as plain values, in the names of `vllm bench serve`; times in milliseconds."""
        played, seconds = self.played, self.played.seconds
        read = sum(len(each.request.tokens) for each in played.answers)
        found: dict[str, Any] = {
            "completed": len(played.answers),
            "duration": seconds,
            "request_rate": self.rate or "inf",
            "max_concurrency": self.concurrency or None,
            "total_input_tokens": read,
            "total_output_tokens": played.tokens,
            "request_throughput": len(played.answers) / seconds if seconds else 0.0,
            "output_throughput": played.rate,
            "total_token_throughput": (read + played.tokens) / seconds if seconds else 0.0,
        }
        for name, values in self.latencies.items():
            found[f"mean_{name}_ms"] = statistics.fmean(values) * 1e3 if values else 0.0
            found[f"median_{name}_ms"] = statistics.median(values) * 1e3 if values else 0.0
            found[f"p{SHARE}_{name}_ms"] = percentile(values, SHARE) * 1e3
        return found | {"adapters": {name: self.adapters.count(name) for name in sorted(set(self.adapters))}}


async def serve_load(
    target: Target,
    requests: Sequence[Request],
    names: Sequence[str],
    tell: Tell,
    *,
    concurrency: int = 0,
    rate: float = 0.0,
    warmups: int = 1,
) -> Measured:
    """Send requests at their times and measure; before that a few of them, alone, which do not count.

    Args:
        target: what answers.
        requests: at most `concurrency` are under way at once.
        names: of the adapters, by number.
        tell: told how many have ended.
        concurrency: 0 for no limit.
        rate: at which the requests come, for the record.
        warmups: requests sent before.

    Raises:
        LoradexError: one of them failed.
    """
    first = [replace(each, at=0.0) for each in requests[:warmups]]
    if first:
        await play(target, first)
    counted = _Counted(target, len(requests), tell)
    played = await play(counted, requests, concurrency)
    asked = tuple("base" if each.adapter is None else names[each.adapter] for each in requests)
    return Measured(played, concurrency, rate, asked)


class _Counted:
    """A target that tells how many of its answers have ended."""

    def __init__(self, target: Target, total: int, tell: Tell) -> None:
        self._target = target
        self._total = total
        self._tell = tell
        self._ended = 0

    async def stream(self, request: Request) -> AsyncIterator[int]:
        async for count in self._target.stream(request):
            yield count
        self._ended += 1
        self._tell("requests", self._ended / self._total)


def _tpot(answer: Timeline) -> float:
    return (answer.times[-1] - answer.times[0]) / (sum(answer.counts) - 1)
