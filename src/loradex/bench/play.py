"""Plays a workload against a target and keeps the time of every token."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from loradex.bench.pairs import percentiles
from loradex.bench.target import Target
from loradex.bench.workload import Request


@dataclass(slots=True)
class Timeline:
    """One answer: the second it was sent, the seconds at which tokens came, and how many each time."""

    request: Request
    sent: float
    times: list[float] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)

    @property
    def ttft(self) -> float:
        """Seconds until the first token."""
        return self.times[0] - self.sent if self.times else 0.0

    @property
    def gaps(self) -> list[float]:
        """Seconds between one arrival of tokens and the next (ITL)."""
        return [after - before for before, after in zip(self.times, self.times[1:], strict=False)]


@dataclass(frozen=True, slots=True)
class Played:
    """All answers of one run."""

    answers: tuple[Timeline, ...]
    began: float
    ended: float

    @property
    def seconds(self) -> float:
        """From the first request to the last token."""
        return self.ended - self.began

    @property
    def tokens(self) -> int:
        """Tokens that were generated; prompts are not counted."""
        return sum(sum(each.counts) for each in self.answers)

    @property
    def rate(self) -> float:
        """Generated tokens a second, end to end."""
        return self.tokens / self.seconds if self.seconds else 0.0

    @property
    def all_began(self) -> float:
        """The moment from which every answer had its first token: only decoding is left."""
        return max((each.times[0] for each in self.answers if each.times), default=self.began)

    @property
    def prefill_rate(self) -> float:
        """Prompt tokens a second, until every answer had its first token."""
        spent = self.all_began - self.began
        return sum(len(each.request.tokens) for each in self.answers) / spent if spent > 0 else 0.0

    @property
    def decode_seconds(self) -> float:
        """From when every answer had its first token to the end."""
        return self.ended - self.all_began

    @property
    def decode_rate(self) -> float:
        """Tokens a second once every answer had its first token."""
        begun = self.all_began
        late = [
            count
            for each in self.answers
            for moment, count in zip(each.times, each.counts, strict=True)
            if moment > begun
        ]
        return sum(late) / self.decode_seconds if late and self.decode_seconds > 0 else 0.0

    @property
    def ttfts(self) -> list[float]:
        """Seconds to the first token, of each answer."""
        return [each.ttft for each in self.answers]

    @property
    def gaps(self) -> list[float]:
        """Seconds between tokens, of all answers."""
        return [gap for each in self.answers for gap in each.gaps]

    @property
    def steady_gaps(self) -> list[float]:
        """Seconds between tokens once every answer had its first token: no prompt is in them."""
        begun = self.all_began
        return [
            after - before
            for each in self.answers
            for before, after in zip(each.times, each.times[1:], strict=False)
            if before >= begun
        ]

    @property
    def late_steps(self) -> int:
        """The most tokens that one answer got once every answer had its first."""
        begun = self.all_began
        return max((sum(moment > begun for moment in each.times) for each in self.answers), default=0)

    def describe(self) -> dict[str, Any]:
        """Return what the record keeps of it: times in seconds."""
        return {
            "seconds": self.seconds,
            "tokens": self.tokens,
            "ttft": self.ttfts,
            "ttft_percentiles": percentiles(self.ttfts),
            "itl_percentiles": percentiles(self.gaps),
            "itl_max": max(self.gaps, default=0.0),
        }


async def play(target: Target, requests: Sequence[Request], limit: int = 0) -> Played:
    """Send every request at its time and wait for all answers; at most `limit` are under way at once, 0 for no limit.

    Raises:
        LoradexError: one of them failed; the others are cancelled.
    """
    room = asyncio.Semaphore(limit or max(1, len(requests)))
    began = time.perf_counter()
    tasks = [asyncio.create_task(_answer(target, each, began, room)) for each in requests]
    try:
        answers = tuple(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    ended = max((each.times[-1] for each in answers if each.times), default=time.perf_counter())
    return Played(answers, began, ended)


async def _answer(target: Target, request: Request, began: float, room: asyncio.Semaphore) -> Timeline:
    wait = began + request.at - time.perf_counter()
    if wait > 0:
        await asyncio.sleep(wait)
    async with room:
        line = Timeline(request, time.perf_counter())
        async for count in target.stream(request):
            line.times.append(time.perf_counter())
            line.counts.append(count)
    return line
