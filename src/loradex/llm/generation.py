"""A prompt under way: waited for, awaited, or read piece by piece, from any thread or event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Generator, Iterator
from functools import partial
from typing import Any

from loradex.llm.event_loop import EventLoop
from loradex.llm.output import RequestOutput
from loradex.llm.prompt_run import Asked, Runs
from loradex.llm.wording import in_arguments


class Generation:
    """What `generate_async` returns. The work has begun, and goes on whether anybody waits or not.

    `result()` waits; `await` it where there is an event loop. `for` and `async for` give the output as it grows, each
    time a copy, where it was asked for with `streaming`; else once, when it is complete. All of them raise what went
    wrong.
    """

    def __init__(self, loop: EventLoop, runs: Runs, asked: Asked, *, streaming: bool) -> None:
        self._loop = loop
        self._pieces: asyncio.Queue[RequestOutput | None] = asyncio.Queue()
        self._last: RequestOutput | None = None
        self._future = loop.begin(self._work(runs, asked, streaming))
        # Not at the end of the work, which never begins where it is cancelled before.
        self._future.add_done_callback(lambda _: loop.soon(partial(self._pieces.put_nowait, None)))

    @property
    def done(self) -> bool:
        """Whether it has ended, in whatever way."""
        return self._future.done()

    def result(self, timeout: float | None = None) -> RequestOutput:
        """Wait for the whole output.

        Raises:
            TimeoutError: it has not come within `timeout` seconds.
        """
        return self._future.result(timeout)

    async def aresult(self) -> RequestOutput:
        """Wait for the whole output in any event loop."""
        return await asyncio.shield(asyncio.wrap_future(self._future))

    def __await__(self) -> Generator[Any, None, RequestOutput]:
        return self.aresult().__await__()

    def __iter__(self) -> Iterator[RequestOutput]:
        while (piece := self._loop.run(self._next())) is not None:
            yield piece

    async def __aiter__(self) -> AsyncIterator[RequestOutput]:
        while (piece := await asyncio.wrap_future(self._loop.begin(self._next()))) is not None:
            yield piece

    def abort(self) -> None:
        """Cancel it: its place in the batch is free at once, streams of it end, and `result` raises CancelledError."""
        self._future.cancel()

    async def _work(self, runs: Runs, asked: Asked, streaming: bool) -> RequestOutput:
        def piece(output: RequestOutput) -> None:
            self._last = output.since(self._last)
            self._pieces.put_nowait(self._last)

        with in_arguments():
            output = await runs.one(asked, piece if streaming else None)
        if not streaming:
            self._pieces.put_nowait(output)
        return output

    async def _next(self) -> RequestOutput | None:
        """Return the next piece, None at the end or when it was aborted. Who reads a second time finds the end."""
        piece = None if self.done and self._pieces.empty() else await self._pieces.get()
        if piece is None and not self._future.cancelled():
            self._future.result()
        return piece
