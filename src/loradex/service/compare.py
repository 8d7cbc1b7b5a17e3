"""One prompt on several sides at once, in one batch of the engine: what each says, how surely, and how fast."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

from loradex.core.adapter import AdapterRef, Reference
from loradex.core.event import Delta, Finished, TokenLogprob
from loradex.core.mix import Mix
from loradex.errors import InvalidRequest, LoradexError
from loradex.service.answer import Answer
from loradex.service.ask import Ask
from loradex.service.routing import Routed

MAX_SIDES = 16

TOGETHER_SECONDS = 10.0
"""The longest that sides which are ready wait for one that loads: there may never be room for all at once."""


@dataclass(frozen=True, slots=True)
class Began:
    """A side is about to answer: on which weights, and why, where the prompt chose them."""

    mix: Mix[AdapterRef]
    routed: Routed | None


@dataclass(frozen=True, slots=True)
class SideAnswer:
    """What a side said.

    Attributes:
        mix: the versions that answered.
        text, finish_reason: the answer, and why it ended.
        tokens: with log-probabilities.
        prompt_tokens: of the prompt as this side's defaults render it.
        ttft_seconds: from the moment at which all sides began to the first token.
        seconds: from then to the end.
        tokens_per_second: after the first token; None for an answer of one.
        routed: why the prompt got this adapter, where it chose.
        reference: the log-probabilities of the tokens of the reference answer, where there is one.
    """

    mix: Mix[AdapterRef]
    text: str
    finish_reason: str
    tokens: tuple[TokenLogprob, ...]
    prompt_tokens: int
    ttft_seconds: float
    seconds: float
    tokens_per_second: float | None
    routed: Routed | None = None
    reference: tuple[TokenLogprob, ...] = ()

    @property
    def perplexity(self) -> float | None:
        """Of the reference answer: how many tokens the side wavers between at each of its tokens; less is better."""
        return perplexity([each.logprob for each in self.reference])


SideEvent = Began | Delta | SideAnswer | LoradexError


@dataclass
class Comparison:
    """A comparison under way. Always read `events` to the end, or close it: its answers hold leases.

    A side that fails does not fail the others: its error is its last event.

    Args:
        generate: begins an answer.
        ask: what is asked; `model` and `adapters` are the sides'.
        sides: what `model` may be, 1 to 16: adapters, versions, mixes, `base`, `auto`.
        reference: an answer whose likelihood each side tells; empty for none.
        clock: seconds from any start.

    Attributes:
        together: whether all sides that answered began in one batch; known at the end.

    Raises:
        InvalidRequest: there is no side, or there are too many.
    """

    generate: Callable[[Ask], Awaitable[Answer]]
    ask: Ask
    sides: Sequence[str]
    reference: str
    clock: Callable[[], float]
    together: bool = True
    _ready: asyncio.Event = field(default_factory=asyncio.Event)
    _began: float = 0.0

    def __post_init__(self) -> None:
        if not 1 <= len(self.sides) <= MAX_SIDES:
            raise InvalidRequest(f"There are {len(self.sides)} sides; 1 to {MAX_SIDES} are allowed", param="sides")
        self._waiting = len(self.sides)
        self._queue: asyncio.Queue[tuple[int, SideEvent] | None] = asyncio.Queue()

    async def events(self) -> AsyncGenerator[tuple[int, SideEvent], None]:
        """Yield what happens, each with the index of its side; the last of each is its answer or its error."""
        tasks = [asyncio.create_task(self._side(index)) for index in range(len(self.sides))]
        for task in tasks:
            task.add_done_callback(lambda _: self._queue.put_nowait(None))
        try:
            left = len(tasks)
            while left:
                item = await self._queue.get()
                if item is None:
                    left -= 1
                else:
                    yield item
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _side(self, index: int) -> None:
        held: list[Answer] = []
        counted = False
        try:
            answer = await self.generate(replace(self.ask, model=self.sides[index]))
            held.append(answer)
            if self.reference:
                held.append(await self.generate(_scoring(answer, self.reference)))
            self._queue.put_nowait((index, Began(answer.mix, answer.routed)))
            counted = True
            await self._all_ready()
            said, scored = await asyncio.gather(self._said(index, answer), _scored(held[1:]))
            self._queue.put_nowait((index, replace(said, reference=scored)))
        except LoradexError as error:
            self._queue.put_nowait((index, error))
        finally:
            if not counted:
                self._arrived()
            for each in held:
                await each.aclose()

    def _arrived(self) -> None:
        self._waiting -= 1
        if not self._waiting:
            self._began = self.clock()
            self._ready.set()

    async def _all_ready(self) -> None:
        """Wait for the other sides, so that the engine gets all of them at once."""
        self._arrived()
        with suppress(TimeoutError):
            async with asyncio.timeout(TOGETHER_SECONDS):
                await self._ready.wait()
        if not self._ready.is_set():
            self.together = False
            self._began = self._began or self.clock()

    async def _said(self, index: int, answer: Answer) -> SideAnswer:
        began, first, last = self._began, 0.0, 0.0
        texts: list[str] = []
        tokens: list[TokenLogprob] = []
        count = 0
        end: Finished | None = None
        async for _, event in answer.events():
            last = self.clock()
            if isinstance(event, Finished):
                end = event
                continue
            first = first or last
            count += len(event.token_ids)
            texts.append(event.text)
            tokens += event.logprobs
            self._queue.put_nowait((index, event))
        rate = (count - 1) / (last - first) if count > 1 and last > first else None
        return SideAnswer(
            Mix(answer.spoken[-1].members),
            "".join(texts),
            end.reason if end is not None else "abort",
            tuple(tokens),
            len(answer.prompt_tokens),
            first - began,
            last - began,
            rate,
            answer.routed,
        )


def perplexity(logprobs: Sequence[float]) -> float | None:
    """Return the exponential of the mean negative log-probability; None for no token."""
    if not logprobs:
        return None
    mean = -sum(logprobs) / len(logprobs)
    return math.exp(mean) if mean < 700 else math.inf


def _scoring(answer: Answer, reference: str) -> Ask:
    """Return what asks the versions that answer for the likelihood of a reference answer."""
    pinned = answer.mix.map(lambda ref: Reference(ref.name, version=ref.version))
    sampling = replace(
        answer.ask.sampling, max_tokens=1, min_tokens=0, logprobs=None, prompt_logprobs=None, grammar=None
    )
    return replace(answer.ask, model=None, adapters=pinned, sampling=sampling, reference=reference, given=None)


async def _scored(answers: Sequence[Answer]) -> tuple[TokenLogprob, ...]:
    scored: tuple[TokenLogprob, ...] = ()
    for answer in answers:
        async for _, event in answer.events():
            if isinstance(event, Delta):
                scored += event.prompt_logprobs
    return scored
