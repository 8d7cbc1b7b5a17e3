"""A hot fix under load: one name goes back and forth between two versions while streams on it are answered."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from loradex.bench.deck import Tell
from loradex.bench.hotfix_result import Seen, result_of
from loradex.bench.http_target import address, connected, fixed, pieces
from loradex.bench.result import Record, Result
from loradex.bench.verbs import Verbs
from loradex.bench.witness import Stream, Swap, Witness
from loradex.errors import ConfigInvalid, Conflict, LoradexError, ServerUnreachable

PROMPTS = (
    "What is a normal resting heart rate for adults?",
    "Explain in a few sentences what a contract is.",
    "Once upon a time there was a small harbour town where",
    "The three most important things to know about water are",
)
_POLL = 0.002
CONTROL_ROUNDS = 2
"""Answers of each stream before the first swap: they show whether the server repeats itself under load."""


@dataclass(frozen=True, slots=True)
class Hotfix:
    """What is done.

    Attributes:
        url, key: the server.
        name: under which the versions are served; it must be free, and is taken away in the end.
        versions: where each version lies, as the server finds it.
        streams: how many answers go on at once.
        swaps: how often the name is moved.
        every: seconds from the end of one swap to the next.
        tokens: of each answer.
        bound: the longest wait between two signs of life of a stream, in seconds.
        mode: of the replace; `drain` is what is promised.
        by_text: compare texts although the server names its weights.
        prompts: what is asked, in turn.
    """

    url: str
    name: str
    versions: tuple[str, str]
    streams: int = 4
    swaps: int = 10
    every: float = 0.3
    tokens: int = 96
    bound: float = 2.0
    mode: str = "drain"
    by_text: bool = False
    prompts: tuple[str, ...] = PROMPTS
    key: str = ""


async def hotfix(given: Hotfix, verbs: Verbs, tell: Tell) -> Result:
    """Do it; whatever happens, the name is taken away again.

    Raises:
        Conflict: the name is in use.
        ConfigInvalid: the two versions cannot be told apart by any of the prompts.
        LoradexError: a version is refused, or the server breaks before the first swap.
    """
    record = Record("hotfix", given.name)
    async with connected(given.url, given.key) as client, _deployed(given, verbs) as name:
        witness = await _learn(given, client, name, tell)
        control = await _all(given, client, witness, tell)
        streams, swaps = await _under_swaps(given, client, witness, name, tell)
        last = [await _ask(client, given, next(iter(witness.texts)))]
    return result_of(
        record, given.bound, address(given.url), Seen(witness, control, streams + last, swaps), _told(given)
    )


class _Name:
    """The name on the server. Verbs block, so they run in threads; each to its end, for a thread is not cancelled."""

    def __init__(self, given: Hotfix, verbs: Verbs) -> None:
        self._given = given
        self._verbs = verbs

    async def move(self, version: int) -> None:
        """Let the name mean a version."""
        await self._wholly(self._verbs.add, self._given.name, self._given.versions[version], mode=self._given.mode)

    async def remove(self) -> None:
        """Take the name away."""
        await self._wholly(self._verbs.remove, self._given.name)

    async def _wholly(self, work: Callable[..., object], *words: str, **more: str) -> None:
        doing = asyncio.create_task(asyncio.to_thread(work, *words, **more))
        try:
            await asyncio.shield(doing)
        finally:
            # The name may only be taken away once it can no longer come.
            await asyncio.wait({doing})


@asynccontextmanager
async def _deployed(given: Hotfix, verbs: Verbs) -> AsyncIterator[_Name]:
    """Serve version 0 under the name, and take it away in the end."""
    if any(each.name == given.name for each in await asyncio.to_thread(verbs.list)):
        hint = f"Choose another with `--name`, or take it away: loradex adapter rm {given.name}"
        raise Conflict(f"The server has an adapter `{given.name}` already", hint=hint)
    name = _Name(given, verbs)
    await name.move(0)
    try:
        yield name
    finally:
        await name.remove()


async def _learn(given: Hotfix, client: httpx.AsyncClient, name: _Name, tell: Tell) -> Witness:
    """Ask each version alone, and leave the name on version 0, as if it had never had another.

    A name that was replaced before may behave otherwise than one that is replaced for the first time, which is the
    common case: vLLM reads such an adapter anew at every step.
    """
    alone: list[list[Stream]] = []
    for version in (0, 1):
        if version:
            await name.move(version)
        alone.append([])
        for prompt in dict.fromkeys(given.prompts):
            stream = await _ask(client, given, prompt)
            if stream.error:
                raise ServerUnreachable(f"Version {version + 1} alone does not answer: {stream.error}")
            alone[-1].append(stream)
            tell("each version alone", sum(map(len, alone)) / 2 / len(given.prompts))
    await name.remove()
    await name.move(0)
    witness = Witness.of(alone, by_text=given.by_text)
    if not witness.texts and witness.means == "text":
        raise ConfigInvalid(
            "Both versions say the same to every prompt, and the server does not name its weights",
            hint="Give prompts that they answer differently with `--prompt`, or longer answers with `--tokens`",
        )
    return witness if witness.texts else Witness(witness.means, witness.fingerprints, dict.fromkeys(given.prompts, ()))


async def _all(given: Hotfix, client: httpx.AsyncClient, witness: Witness, tell: Tell) -> list[Stream]:
    """Answer as many streams at once as later, with no swap."""
    prompts = list(witness.texts)
    found: list[Stream] = []
    for turn in range(CONTROL_ROUNDS):
        asked = [_ask(client, given, prompts[(turn + i) % len(prompts)]) for i in range(given.streams)]
        found += await asyncio.gather(*asked)
        tell("streams without swaps", (turn + 1) / CONTROL_ROUNDS)
    return found


async def _under_swaps(
    given: Hotfix, client: httpx.AsyncClient, witness: Witness, name: _Name, tell: Tell
) -> tuple[list[Stream], list[Swap]]:
    """Keep the streams going until the name has been moved so often; what runs then comes to its end."""
    prompts = list(witness.texts)
    streams: list[Stream] = []
    over = asyncio.Event()

    async def worker(number: int) -> None:
        turn = number
        # Not all at once, so that a swap finds answers at their beginning, in their middle and near their end.
        while sum(len(stream.times) for stream in streams) < number * given.tokens // given.streams:
            if over.is_set() or any(stream.error for stream in streams):
                return
            await asyncio.sleep(_POLL)
        while not over.is_set():
            stream = Stream(prompts[turn % len(prompts)], time.perf_counter())
            streams.append(stream)
            await _ask(client, given, stream.prompt, stream)
            if stream.error:
                return  # the test has failed; asking on would only repeat it
            turn += given.streams

    workers = [asyncio.create_task(worker(number)) for number in range(given.streams)]
    try:
        swaps = await _swaps(given, streams, workers, name, tell)
        over.set()
        await asyncio.gather(*workers)
    finally:
        for task in workers:
            task.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
    return streams, swaps


async def _swaps(
    given: Hotfix, streams: list[Stream], workers: Sequence[asyncio.Task[None]], name: _Name, tell: Tell
) -> list[Swap]:
    """Move the name again and again, each time in the middle of an answer."""
    swaps: list[Swap] = []
    version = 0
    for count in range(given.swaps):
        while not any(stream.running for stream in streams):
            if all(task.done() for task in workers):
                return swaps
            await asyncio.sleep(_POLL)
        began, error = time.perf_counter(), ""
        try:
            await name.move(1 - version)
            version = 1 - version
        except LoradexError as failed:
            error = failed.message
        swaps.append(Swap(1 - version if error else version, began, time.perf_counter(), error))
        tell("streams under swaps", (count + 1) / given.swaps)
        await asyncio.sleep(given.every)
    return swaps


async def _ask(client: httpx.AsyncClient, given: Hotfix, prompt: str, stream: Stream | None = None) -> Stream:
    """Stream one answer and keep all that came."""
    stream = stream or Stream(prompt, time.perf_counter())
    try:
        async for piece in pieces(client, fixed(given.name, prompt, given.tokens)):
            if piece.text:
                stream.times.append(time.perf_counter())
                stream.text += piece.text
            if piece.fingerprint:
                stream.fingerprints.add(piece.fingerprint)
            stream.finish = piece.finish or stream.finish
    except LoradexError as error:
        stream.error = error.message
    finally:
        stream.ended = time.perf_counter()
    return stream


def _told(given: Hotfix) -> dict[str, Any]:
    names = ("name", "versions", "streams", "swaps", "every", "tokens", "bound", "mode", "prompts")
    return {name: getattr(given, name) for name in names}
