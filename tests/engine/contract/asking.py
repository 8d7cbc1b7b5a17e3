"""Asking an engine, and waiting for what it does in its own time."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from loradex.core.event import Event, Finished, TokenLogprob
from loradex.core.mix import Mix
from loradex.core.request import GenerateRequest
from loradex.core.sampling import Sampling
from loradex.engine.base import Engine

PROMPT = "many adapters on one base"
_numbers = itertools.count()


@dataclass
class Whole:
    """A whole answer."""

    text: str
    tokens: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...]
    end: Finished
    prompt_logprobs: tuple[TokenLogprob, ...]


def begin(
    engine: Engine, adapter: Mix[str] | str | None = None, prompt: str = PROMPT, name: str = "", **sampling: object
) -> AsyncIterator[Event]:
    """Ask for a greedy answer of 12 tokens, or as `sampling` says."""
    wanted = Sampling(**({"temperature": 0.0, "max_tokens": 12} | sampling))  # type: ignore[arg-type]
    mix = adapter if isinstance(adapter, Mix) else Mix.of(adapter)
    return engine.generate(GenerateRequest(name or f"r{next(_numbers)}", engine.encode(prompt), wanted, mix))


def endless(engine: Engine, adapter: Mix[str] | str | None = None, name: str = "") -> AsyncIterator[Event]:
    """Ask for an answer that ends after a hundred tokens, if nothing happens to it."""
    return begin(engine, adapter, "go", name, max_tokens=100, ignore_eos=True)


async def whole(events: AsyncIterator[Event]) -> Whole:
    """Read to the end, which comes once and last."""
    seen = [event async for event in events]
    assert isinstance(seen[-1], Finished)
    deltas = [event for event in seen[:-1] if not isinstance(event, Finished)]
    assert len(deltas) == len(seen) - 1
    return Whole(
        "".join(delta.text for delta in deltas),
        tuple(token for delta in deltas for token in delta.token_ids),
        tuple(logprob for delta in deltas for logprob in delta.logprobs),
        seen[-1],
        tuple(logprob for delta in deltas for logprob in delta.prompt_logprobs),
    )


async def close(events: AsyncIterator[Event]) -> None:
    """Close an iterator that was begun."""
    await events.aclose()  # type: ignore[attr-defined]


async def until(true: Callable[[], bool]) -> None:
    """Wait for what an engine does at its next step."""
    async with asyncio.timeout(10):
        while not true():
            await asyncio.sleep(0.001)


def idle(engine: Engine) -> bool:
    """Whether nothing is in the engine, blocks of the prefix cache apart."""
    stats = engine.stats()
    return stats.running == stats.waiting == 0
