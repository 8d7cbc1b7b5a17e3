"""The event loop that a service lives on, in a thread of its own, for callers who have none or another one."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

from loradex.errors import EngineStopped

T = TypeVar("T")
P = ParamSpec("P")


class EventLoop:
    """A running event loop. As a context manager it is stopped at the end; it does not keep the process alive."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._loop.set_default_executor(_Threads(thread_name_prefix="loradex-llm"))
        self._thread = threading.Thread(target=self._loop.run_forever, name="loradex-llm", daemon=True)
        self._thread.start()

    def __enter__(self) -> EventLoop:
        return self

    def __exit__(self, *_: object) -> None:
        self.run(self._end_tasks())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def here(self) -> bool:
        """Whether the caller is on the loop's own thread, where waiting for it would never end."""
        return threading.current_thread() is self._thread

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Do `work` there and wait for it; an interrupt of the waiting cancels it. Raises what it raises."""
        future = self.begin(work)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def begin(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Begin `work` there. Raises EngineStopped where the loop has ended."""
        if not self._thread.is_alive():
            work.close()
            raise EngineStopped("This LLM was shut down", hint="Make another `LLM`")
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def soon(self, call: Callable[[], object]) -> None:
        """Call it there, unless the loop has ended."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(call)

    async def _end_tasks(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)


class _Threads(ThreadPoolExecutor):
    """A pool that works when the interpreter ends too: then pools refuse work, so it is done at once, where it is."""

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        try:
            return super().submit(fn, *args, **kwargs)
        except RuntimeError:
            done: Future[T] = Future()
            try:
                done.set_result(fn(*args, **kwargs))
            except BaseException as error:  # noqa: BLE001 - whoever waits for the future hears of it
                done.set_exception(error)
            return done
