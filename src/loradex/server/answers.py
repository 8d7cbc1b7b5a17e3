"""The answers of one reply: several prompts, each answered `n` times, all by the same version of one adapter."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field, replace

from loradex import __version__
from loradex.core.adapter import AdapterRef, Reference
from loradex.core.event import Delta, Event, Finished, TokenLogprob
from loradex.core.mix import Mix
from loradex.errors import EngineFailed
from loradex.server.wire.usage import Usage
from loradex.service.generate import Answer, Ask
from loradex.service.routing import Routed
from loradex.service.service import Service

ADAPTER = "x-loradex-adapter"
"""Header that names the version which answers, or all of a mix with their weights; several, one after the other, where
an `immediate` replace came in between. That of a stream is sent before, and names who begins."""

ROUTE = "x-loradex-route"
"""Header that says why `auto` took this adapter."""

STICKY = "x-loradex-sticky"
"""Header of a request: while a canary runs, equal values are answered by one version. Else the field `user` decides."""


@dataclass(slots=True)
class Choice:
    """One answer, collected."""

    text: str = ""
    logprobs: list[TokenLogprob] = field(default_factory=list)
    prompt_logprobs: list[TokenLogprob] = field(default_factory=list)
    end: Finished | None = None


class Answers:
    """Answers under way. Close them, whatever happens: they hold leases."""

    def __init__(self, answers: Sequence[Answer], n: int, model: str) -> None:
        self._answers = answers
        self._model = model
        self._n = n
        self.ends: dict[int, Finished] = {}
        """How each answer ended, by its index, as far as `events` has come."""

    @classmethod
    async def begin(cls, service: Service, asks: Sequence[Ask]) -> Answers:
        """Begin an answer to each, which differ in their prompts and in `adapters` alone.

        Raises:
            LoradexError: any prompt is refused; then none is answered.
        """
        begun: list[Answer] = []
        pinned: dict[Mix[Reference], Mix[Reference]] = {}
        models: dict[str, None] = {}
        try:
            for ask in asks:
                asked = ask.adapters
                if asked in pinned:  # a replace between two prompts must not make two versions speak in one reply
                    ask = replace(ask, model=None, adapters=pinned[asked])
                begun.append(await service.generate(ask))
                if asked not in pinned:
                    models[begun[-1].model] = None
                    pinned[asked] = begun[-1].mix.map(lambda ref: Reference(ref.name, version=ref.version))
        except BaseException:
            for answer in begun:
                await answer.aclose()
            raise
        return cls(begun, asks[0].n, ", ".join(models))

    def __len__(self) -> int:
        return len(self._answers) * self._n

    @property
    def model(self) -> str:
        """The name that answers; several, one after the other, where the prompts ask for different ones."""
        return self._model

    def prompt(self, index: int) -> str:
        """Return as text what an answer goes on from, by its index."""
        return self._answers[index // self._n].prompt

    @property
    def headers(self) -> dict[str, str]:
        """The headers that say who has answered so far (before the first word: who begins), and why `auto` chose it."""
        routed = self._answers[0].routed
        why = {ROUTE: _told(routed)} if routed is not None else {}
        return {ADAPTER: ", ".join(map(str, self._spoken)), **why}

    @property
    def fingerprint(self) -> str:
        """This server's version and the digests that have answered so far.

        Answers with equal ones can be compared. After an `immediate` replace in the middle there are several.
        """
        digests = (str(mix.map(lambda ref: ref.digest[:12])) for mix in self._spoken)
        return f"loradex-{__version__}-{'>'.join(digests)}"

    @property
    def _spoken(self) -> Sequence[Mix[AdapterRef]]:
        return list(dict.fromkeys(mix for answer in self._answers for mix in answer.spoken))

    def first(self, index: int) -> str:
        """Return what the first token of that alone says."""
        return self._answers[index // self._n].first

    def prompt_tokens(self, index: int) -> int:
        """Return the size of the prompt to which answer `index` belongs."""
        return len(self._answers[index // self._n].prompt_tokens)

    def usage(self) -> Usage:
        """Return the counts of what has ended."""
        prompt = sum(len(answer.prompt_tokens) for answer in self._answers)
        first = [end for index, end in self.ends.items() if index % self._n == 0]
        return Usage.of(prompt, self.ends.values(), first)

    async def events(self) -> AsyncGenerator[tuple[int, Event], None]:
        """Yield the events of all answers as they come, each with its index: answers of the first prompt first.

        Raises:
            EngineFailed: the engine broke on one of them.
        """
        one = len(self._answers) == 1
        async for index, event in self._answers[0].events() if one else self._merged():
            if isinstance(event, Finished):
                self.ends[index] = event
            yield index, event
        if len(self.ends) < len(self):
            raise EngineFailed("The engine ended an answer without saying why")

    async def collect(self) -> list[Choice]:
        """Return all answers, when they are complete.

        Raises:
            EngineFailed: the engine broke on one of them.
        """
        texts: list[list[str]] = [[] for _ in range(len(self))]
        choices = [Choice() for _ in range(len(self))]
        async for index, event in self.events():
            if isinstance(event, Delta):
                texts[index].append(event.text)
                choices[index].logprobs.extend(event.logprobs)
                choices[index].prompt_logprobs.extend(event.prompt_logprobs)
            else:
                choices[index].end = event
        for choice, parts in zip(choices, texts, strict=True):
            choice.text = "".join(parts)
        return choices

    async def aclose(self) -> None:
        """Cancel what still runs and give all leases back."""
        for answer in self._answers:
            await answer.aclose()

    async def _merged(self) -> AsyncGenerator[tuple[int, Event], None]:
        queue: asyncio.Queue[tuple[int, Event] | None] = asyncio.Queue()

        async def pump(first: int, answer: Answer) -> None:
            async for index, event in answer.events():
                queue.put_nowait((first + index, event))

        tasks = [asyncio.create_task(pump(i * self._n, answer)) for i, answer in enumerate(self._answers)]
        everything = asyncio.gather(*tasks)
        everything.add_done_callback(lambda _: queue.put_nowait(None))
        try:
            while (item := await queue.get()) is not None:
                yield item
            await everything
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, everything, return_exceptions=True)


def _told(routed: Routed) -> str:
    """Return a decision as a header's value, which is ASCII in one line."""
    found = routed.decision
    how = f"score={found.score:.2f}; policy={routed.policy}; why={found.why}"
    text = f"{found.adapter}; {how}; {' '.join(found.reason.split())}"
    return text.encode("ascii", "backslashreplace").decode()
