"""From what was asked, and who answers, to the tokens and the sampling that the engine is given."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, replace

from loradex.adapters.adapter import Adapter
from loradex.adapters.vocabulary import Vocabulary
from loradex.core.adapter import AdapterRef
from loradex.core.defaults import NO_DEFAULTS, Defaults
from loradex.core.mix import Mix
from loradex.core.prompt import ChatPrompt, Message, Prompt
from loradex.core.sampling import Sampling
from loradex.engine.base import Engine
from loradex.errors import Conflict, InvalidRequest, Unsupported
from loradex.service.ask import Ask
from loradex.service.fit import fit

SECONDS = 5.0
"""The longest that somebody's chat template may take."""

_AT_ONCE = 2
"""Threads that may render such templates."""

Read = Callable[[str], Awaitable[Adapter]]
"""Reads an adapter by its digest."""

_SAMPLES = (Message("user", "Hello"), Message("assistant", "Hello."), Message("user", "What now?"))


@dataclass(frozen=True, slots=True)
class Speech:
    """How prompts become tokens under an adapter.

    Attributes:
        vocab_size: how many token ids there are.
        own: the weights by themselves, where they have tokens of their own; else None.
        vocabulary: what these are, where a tokenizer tells.
    """

    vocab_size: int
    own: Mix[str] | None = None
    vocabulary: Vocabulary | None = None

    @property
    def template(self) -> bool:
        """Whether they have a chat template of their own too."""
        return self.vocabulary is not None and self.vocabulary.chat_template != ""


@dataclass(frozen=True, slots=True)
class Rendered:
    """A prompt's tokens, how the answer is sampled, and where the reference begins that is to be scored."""

    tokens: tuple[int, ...]
    sampling: Sampling
    scored_from: int | None = None


class Rendering:
    """Renders prompts with the defaults of the version that answers.

    The base's own chat template is rendered in place. Another one is a program of somebody else: it runs in the
    sandbox that transformers gives to templates, on a thread of its own, within `seconds`.
    """

    def __init__(self, engine: Engine, read: Read, seconds: float = SECONDS) -> None:
        self._engine = engine
        self._read = read
        self._seconds = seconds
        self._speech: dict[str, Speech] = {}
        self._threads = asyncio.Semaphore(_AT_ONCE)

    async def render(self, ask: Ask, mix: Mix[AdapterRef]) -> Rendered:
        """Return tokens and sampling parameters. The defaults of one adapter apply, of several none.

        Raises:
            InvalidRequest: the prompt is empty, the conversation cannot be rendered, the grammar has a mistake, or the
                mix is of adapters with tokens of their own.
            Unsupported: the engine holds answers to no form, or not those of an adapter with tokens of its own.
            ContextLengthExceeded: prompt, or prompt and `min_tokens`, do not fit the context.
            AdapterDamaged, AdapterInvalid: an adapter's files are gone or changed, or its tokens do not fit the base's.
        """
        defaults = mix.adapters[0].defaults if len(mix.members) == 1 else NO_DEFAULTS
        speech = await self._spoken(mix)
        prompt = defaults.prompt(ask.prompt)
        tokens, scored_from = await self._encode(prompt, speech), None if ask.sampling.prompt_logprobs is None else 0
        if ask.reference:
            whole = await self._encode(_answered(prompt, ask.reference), speech)
            tokens, scored_from = whole, _common(tokens, whole)
        sampling = defaults.sampled(ask.sampling, ask.fixed, self._engine.info.max_model_len)
        if sampling.grammar is not None:
            if speech.own is not None:
                raise Unsupported(
                    f"`{mix}` has tokens that the base does not have: its answers cannot be held to a form",
                    hint=f"Leave out `{sampling.grammar.param}`, and say in the prompt what is wanted",
                    param=sampling.grammar.param,
                )
            await self._engine.compile(sampling.grammar)
        info = replace(self._engine.info, vocab_size=speech.vocab_size)
        return Rendered(tokens, fit(sampling, len(tokens), info), scored_from)

    async def learn(self, adapter: Adapter) -> Speech:
        """Take note of the tokens that an adapter adds.

        Raises:
            AdapterInvalid: they do not fit the base's.
        """
        known = self._speech.get(adapter.digest)
        if known is None:
            info, own = self._engine.info, Mix.of(adapter.digest)
            if await self._engine.learn(adapter):
                known = Speech(adapter.vocab_size(info), own, adapter.vocabulary)
            else:
                known = Speech(info.vocab_size)
            self._speech[adapter.digest] = known
        return known

    async def require_alike(self, old: AdapterRef, new: Adapter) -> None:
        """Let answers that run under one version go over to other weights.

        Raises:
            Conflict: what was said so far would mean something else there.
        """
        one, other = self._speech.get(old.digest), await self.learn(new)
        if one is not None and (one.vocab_size, one.vocabulary) != (other.vocab_size, other.vocabulary):
            raise Conflict(
                f"The new version has other tokens than `{old}`, so answers that run cannot switch to it",
                hint="Let them end as they began: leave out `--mode immediate`",
                param="mode",
            )

    def is_plain(self, ref: AdapterRef) -> bool:
        """Whether a version is known to have no tokens but those of the base."""
        known = self._speech.get(ref.digest)
        return known is not None and known.own is None

    async def _spoken(self, mix: Mix[AdapterRef]) -> Speech:
        speech = Speech(self._engine.info.vocab_size)
        for ref, weight in mix.members:
            speech = self._speech.get(ref.digest) or await self.learn(await self._read(ref.digest))
            if speech.own is not None and (len(mix.members) > 1 or weight != 1.0):
                raise InvalidRequest(
                    f"`{ref}` has tokens that the base does not have, so it answers only by itself, not as `{mix}`",
                    hint=f"Ask for `{ref.name}` alone",
                    param="model",
                )
        return speech

    async def try_out(self, defaults: Defaults) -> None:
        """Render a conversation, before anybody's request does.

        Raises:
            InvalidRequest: the chat template has a mistake, or takes too long.
        """
        if defaults.chat_template:
            prompt = defaults.prompt(ChatPrompt(_SAMPLES))
            await self._encode(prompt, Speech(self._engine.info.vocab_size))

    async def _encode(self, prompt: Prompt, speech: Speech) -> tuple[int, ...]:
        if not isinstance(prompt, ChatPrompt) or (prompt.template is None and not speech.template):
            return self._engine.encode(prompt, speech.own)
        try:
            async with asyncio.timeout(self._seconds):
                await self._threads.acquire()
                return await _apart(lambda: self._engine.encode(prompt, speech.own), self._threads.release)
        except TimeoutError as error:
            raise InvalidRequest(
                f"The chat template took more than {self._seconds:g} s",
                hint="Correct the template: `loradex adapter set NAME --chat-template FILE`",
                param="chat_template",
            ) from error


def _answered(prompt: Prompt, reference: str) -> Prompt:
    """Return the prompt with the answer behind it, left open: what ends a turn is no part of the answer."""
    if isinstance(prompt, str):
        return prompt + reference
    if not isinstance(prompt, ChatPrompt):
        raise InvalidRequest("A reference needs a prompt of text, not of token ids", param="reference")
    turns = (*prompt.messages, Message("assistant", reference))
    return replace(prompt, messages=turns, add_generation_prompt=False, continue_final_message=True)


def _common(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    """Return how many tokens both begin with. The first of an answer may be one with the prompt's last."""
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


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
