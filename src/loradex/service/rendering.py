"""From what was asked, and who answers, to the tokens and the sampling that the engine is given."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress

from loradex.core.adapter import AdapterRef
from loradex.core.defaults import NO_DEFAULTS, Defaults
from loradex.core.mix import Mix
from loradex.core.prompt import ChatPrompt, Message, Prompt
from loradex.core.sampling import Sampling
from loradex.engine.base import Engine
from loradex.errors import InvalidRequest
from loradex.service.ask import Ask
from loradex.service.fit import fit

SECONDS = 5.0
"""The longest that somebody's chat template may take."""

_AT_ONCE = 2
"""Threads that may render such templates."""

_SAMPLES = (Message("user", "Hello"), Message("assistant", "Hello."), Message("user", "What now?"))


class Rendering:
    """Renders prompts with the defaults of the version that answers.

    The base's own chat template is rendered in place. Another one is a program of somebody else: it runs in the
    sandbox that transformers gives to templates, on a thread of its own, within `seconds`.
    """

    def __init__(self, engine: Engine, seconds: float = SECONDS) -> None:
        self._engine = engine
        self._seconds = seconds
        self._threads = asyncio.Semaphore(_AT_ONCE)

    async def render(self, ask: Ask, mix: Mix[AdapterRef]) -> tuple[tuple[int, ...], Sampling]:
        """Return tokens and sampling parameters. The defaults of one adapter apply, of several none.

        Raises:
            InvalidRequest: the prompt is empty, the conversation cannot be rendered, or the grammar has a mistake.
            Unsupported: the engine holds answers to no form.
            ContextLengthExceeded: prompt, or prompt and `min_tokens`, do not fit the context.
        """
        defaults = mix.adapters[0].defaults if len(mix.members) == 1 else NO_DEFAULTS
        tokens = await self._encode(defaults.prompt(ask.prompt))
        sampling = defaults.sampled(ask.sampling, ask.fixed, self._engine.info.max_model_len)
        if sampling.grammar is not None:
            await self._engine.compile(sampling.grammar)
        return tokens, fit(sampling, len(tokens), self._engine.info)

    async def try_out(self, defaults: Defaults) -> None:
        """Render a conversation, before anybody's request does.

        Raises:
            InvalidRequest: the chat template has a mistake, or takes too long.
        """
        if defaults.chat_template:
            await self._encode(defaults.prompt(ChatPrompt(_SAMPLES)))

    async def _encode(self, prompt: Prompt) -> tuple[int, ...]:
        if not isinstance(prompt, ChatPrompt) or prompt.template is None:
            return self._engine.encode(prompt)
        try:
            async with asyncio.timeout(self._seconds):
                await self._threads.acquire()
                return await _apart(lambda: self._engine.encode(prompt), self._threads.release)
        except TimeoutError as error:
            raise InvalidRequest(
                f"The chat template took more than {self._seconds:g} s",
                hint="Correct the template: `loradex adapter set NAME --chat-template FILE`",
                param="chat_template",
            ) from error


def _apart(work: Callable[[], tuple[int, ...]], ended: Callable[[], None]) -> asyncio.Future[tuple[int, ...]]:
    """Work on a thread that nobody has to wait for, not even the end of the process; tell the loop when it `ended`."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[tuple[int, ...]] = loop.create_future()

    def tell(result: tuple[int, ...] | BaseException) -> None:
        ended()
        if future.done():
            return
        if isinstance(result, BaseException):
            future.set_exception(result)
        else:
            future.set_result(result)

    def run() -> None:
        result: tuple[int, ...] | BaseException
        try:
            result = work()
        except Exception as error:  # noqa: BLE001 - whoever waits gets it
            result = error
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(tell, result)

    threading.Thread(target=run, name="chat-template", daemon=True).start()
    return future
