"""Two endings that cancellation must not cut short."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

from loradex.core.event import Event

T = TypeVar("T")

EFFECT = "commit"
"""The stage of a verb, as progress is told, from which on it takes effect and is not cancelled any more."""


async def to_the_end(work: Awaitable[T], cancelled: Callable[[], None] = lambda: None) -> T:
    """Run `work` to its end even when the caller is cancelled meanwhile; the cancellation comes through afterwards.

    `cancelled` is called when it comes, so that work that can be cut short ends sooner. For the short steps that may
    not stop in the middle: a thread that writes, and what must follow what it wrote.
    """
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        cancelled()
        while not task.done():
            try:
                await asyncio.wait((task,))
            except asyncio.CancelledError:
                continue
        if not task.cancelled():
            task.exception()  # seen: the cancellation is what the caller hears of
        raise


@asynccontextmanager
async def closing(events: AsyncIterator[Event]) -> AsyncIterator[AsyncIterator[Event]]:
    """Close the iterator at the end, which cancels the engine's request where it has not ended."""
    try:
        yield events
    finally:
        close = getattr(events, "aclose", None)
        if close is not None:
            await close()
