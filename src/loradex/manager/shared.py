"""One LLM that many borrow: loaded by the first who needs it, freed when nobody has for a while."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Literal

from loradex.errors import EngineStopped
from loradex.llm.llm import LLM

State = Literal["not_loaded", "loading", "loaded", "closed"]


class SharedModel:
    """Lends an LLM. Safe from any thread and event loop.

    Loads and unloads happen one at a time, so that the memory never holds two.

    Args:
        make: loads it.
        unload_after: seconds without a borrower after which it is freed; None keeps it.
    """

    def __init__(self, make: Callable[[], LLM], unload_after: float | None) -> None:
        self._make = make
        self.unload_after = unload_after
        self.load_seconds: float | None = None
        """What the last load took."""
        self.borrowed = 0
        """How often it was borrowed, since it was made."""
        self.users = 0
        """Who have it now."""
        self._lock = threading.Lock()
        self._turn = threading.Lock()  # to load or unload; never taken while `_lock` is held
        self._loaded: Future[LLM] | None = None
        self._timer: threading.Timer | None = None
        self._closed = False

    @property
    def state(self) -> State:
        """Whether it is in memory."""
        if self._closed:
            return "closed"
        loaded = self._loaded
        return "not_loaded" if loaded is None else "loaded" if loaded.done() else "loading"

    @property
    def llm(self) -> LLM | None:
        """The LLM, where it is loaded."""
        loaded = self._loaded
        return loaded.result() if loaded is not None and loaded.done() and not loaded.exception() else None

    def borrow(self) -> LLM:
        """Return the LLM, which stays loaded until `give_back`. Blocks while somebody loads it.

        Raises:
            LoradexError: whatever `LLM` raises. The next who borrows tries again.
            EngineStopped: it was closed.
        """
        with self._lock:
            self.users += 1
            self.borrowed += 1
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            loaded, first = self._loaded, self._loaded is None
            if loaded is None:
                loaded = self._loaded = Future()
        if first:
            self._load(loaded)
        try:
            return loaded.result()
        except BaseException:
            self.give_back()
            raise

    async def borrow_async(self) -> LLM:
        """Return the LLM, without blocking the event loop; otherwise as `borrow`."""
        if self.state == "loaded":
            return self.borrow()
        borrowing = asyncio.ensure_future(asyncio.to_thread(self.borrow))
        try:
            return await asyncio.shield(borrowing)
        except asyncio.CancelledError:
            borrowing.add_done_callback(lambda done: None if done.cancelled() or done.exception() else self.give_back())
            raise

    def give_back(self) -> None:
        """End what `borrow` began."""
        with self._lock:
            self.users -= 1
            if self.users == 0 and self.unload_after is not None and self._loaded is not None:
                self._timer = threading.Timer(self.unload_after, self.unload)
                self._timer.daemon = True
                self._timer.start()

    def unload(self) -> bool:
        """Free it, unless somebody has it; return whether it is out of memory. The next who borrows loads it again."""
        with self._turn:
            with self._lock:
                loaded = self._loaded
                if self.users or (loaded is not None and not loaded.done()):
                    return False
                self._loaded = None
            self._shut_down(loaded)
        return True

    def retire(self) -> None:
        """Free it as soon as nobody has it any more."""
        self.unload_after = 0.0
        if not self.users:
            self.close()

    def close(self) -> None:
        """Free it now. Answers under way end with EngineStopped, and so does whoever borrows it from now on."""
        self._closed = True
        with self._turn:
            with self._lock:
                loaded = self._loaded
                if loaded is None or not loaded.done():  # who is about to load it finds it closed
                    return
                self._loaded = None
            self._shut_down(loaded)

    def _load(self, loaded: Future[LLM]) -> None:
        with self._turn:
            began = time.perf_counter()
            try:
                if self._closed:
                    raise EngineStopped("This model was closed", hint="Configure the model manager again")
                llm = self._make()
            except BaseException as error:  # noqa: BLE001 - whoever waits gets it
                with self._lock:
                    self._loaded = None
                loaded.set_exception(error)
                return
            self.load_seconds = time.perf_counter() - began
            loaded.set_result(llm)

    @staticmethod
    def _shut_down(loaded: Future[LLM] | None) -> None:
        if loaded is not None and loaded.exception() is None:
            loaded.result().shutdown()
