"""A storm of streams, replaces, unloads, cancellations and evictions, for any engine; then all promises are checked."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from loradex.core.event import Delta, Finished
from loradex.core.mix import Mix
from loradex.core.sampling import Sampling
from loradex.engine.base import Engine
from loradex.errors import AdapterNotFound, Conflict, InvalidRequest, LoradexError, ModelNotFound, Overloaded
from loradex.registry.registry import Registry
from loradex.service.adapters import Mode
from loradex.service.generate import Answer, Ask
from loradex.service.service import Service

from .deck import save_adapter

NAMES = ("medical", "legal", "technical", "poetry", "code")
PROMPTS = ("hello", "what is a lease", "one two three four")
EXPECTED = (Overloaded, ModelNotFound, AdapterNotFound, Conflict)
"""What may happen to a request whose adapter is removed, disabled or kept out meanwhile. Nothing else may."""

Seen = dict[tuple[Mix[str], str, int], str]


@dataclass
class Report:
    """What happened. `answers` maps digests, prompt and length to the one text that they gave."""

    answers: Seen = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)


async def stress(
    engine: Engine,
    registry: Registry,
    folder: Path,
    *,
    seed: int,
    max_loras: int = 3,
    streams: int = 8,
    replaces: int = 50,
    contents: int = 8,
    max_tokens: int = 24,
    max_rank: int = 8,
    queue_seconds: float = 10.0,
    immediate: float = 0.0,
    names: Callable[[str, Mix[str]], bool] | None = None,
) -> Report:
    """Run the storm on an engine that is not started and an empty registry; raises AssertionError on a broken promise.

    Sampling is greedy, so one mix gives one prompt one answer: an answer of two versions would differ from the others.
    `names` may look at each whole text and what it runs on besides. `immediate` is the share of replaces that
    switch running answers; with any, what the answers say is not compared.
    """
    service = Service(
        registry,
        engine,
        max_lora_rank=max_rank,
        max_loras=max_loras,
        max_queue_seconds=queue_seconds,
        fair_seconds=0.05,
    )
    await service.start()
    try:
        storm = Storm(service, folder, random.Random(seed), contents, max_tokens, immediate, names)
        await storm.prepare()
        await storm.blow(streams, replaces)
        await storm.check()
        return storm.report
    finally:
        await service.stop()


class Storm:
    """The tasks of one run, and what they saw."""

    def __init__(
        self,
        service: Service,
        folder: Path,
        chance: random.Random,
        contents: int,
        max_tokens: int,
        immediate: float,
        names: Callable[[str, Mix[str]], bool] | None,
    ) -> None:
        self._service = service
        self._chance = chance
        self._folders = [save_adapter(folder / str(i), service.info, seed=i, rank=2 + i % 3) for i in range(contents)]
        self._max_tokens = max_tokens
        self._immediate = immediate
        self._names = names
        self._over = False
        self.report = Report()

    async def prepare(self) -> None:
        """Register every name once."""
        for i, name in enumerate(NAMES):
            await self._service.adapters.add(name, self._folders[i], trusted=True, load=False)

    async def blow(self, streams: int, replaces: int) -> None:
        """Run everything at once until the last replace is done."""
        async with asyncio.TaskGroup() as group:
            for _ in range(streams):
                group.create_task(self._stream())
            for verb in (self._unload, self._move, self._remove):
                group.create_task(self._repeat(verb))
            await self._replace(replaces)
            self._over = True

    async def check(self) -> None:
        """Check that nothing is left, and that each version still answers as it did."""
        service = self._service
        await service.residency.settle()
        states = service.residency.states()
        assert all(state.leases == 0 and state.waiting == 0 for state in states.values()), states
        resident = {state.digest for state in states.values() if state.resident}
        assert resident == set(states) == {held.digest for held in service.engine.resident()}
        assert len(resident) <= service.max_loras
        self.report.counts["evictions"] = service.residency.evictions
        self._check_store()
        stats = service.engine.stats()
        assert (stats.running, stats.waiting) == (0, 0)
        for name in NAMES:
            for prompt in PROMPTS:
                await self._ask_once(name, prompt, self._max_tokens)
        await service.residency.settle()
        assert all(state.leases == 0 for state in service.residency.states().values())

    def _check_store(self) -> None:
        """Check that the store holds what is registered, and nothing else."""
        registered = {version.digest for record in self._service.registry.list() for version in record.versions}
        weights = (self._service.registry.home / "blobs").rglob("*.safetensors")
        assert {path.parent.name for path in weights} == registered

    async def _stream(self) -> None:
        while not self._over:
            one, other = self._chance.sample(NAMES, 2)
            mixes = (f"{one}*0.7+{other}*0.3", f"{one}@1+{other}@1*-0.5", f"{one}+{other}@1*0.25+{other}")
            model = self._chance.choice((*NAMES, *NAMES, "base", f"{one}@1", *mixes))
            prompt = self._chance.choice(PROMPTS)
            length = self._chance.randint(2, self._max_tokens)
            fate = self._chance.random()
            if fate < 0.2:
                await self._cancelled(model, prompt, length)
            else:
                await self._ask_once(model, prompt, length, leave_early=fate < 0.3)
            await asyncio.sleep(0)

    async def _cancelled(self, model: str, prompt: str, length: int) -> None:
        """Cancel a request at whatever it awaits after some turns of the loop."""
        task = asyncio.create_task(self._ask_once(model, prompt, length))
        for _ in range(self._chance.randint(0, 40)):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait((task,))
        if not task.cancelled():
            task.result()
        self.report.counts["cancelled" if task.cancelled() else "too late to cancel"] += 1

    async def _ask_once(self, model: str, prompt: str, length: int, *, leave_early: bool = False) -> None:
        sampling = Sampling(temperature=0.0, max_tokens=length)
        try:
            answer = await self._service.generate(Ask(model, prompt, sampling))
        except EXPECTED as error:
            self.report.counts[type(error).__name__] += 1
            return
        try:
            await self._read(answer, prompt, length, leave_early)
        finally:
            await answer.aclose()

    async def _read(self, answer: Answer, prompt: str, length: int, leave_early: bool) -> None:
        text, end, pieces = "", None, 0
        async for _, event in answer.events():
            if isinstance(event, Finished):
                end = event
            if isinstance(event, Delta):
                text += event.text
                pieces += 1
                if leave_early and pieces == 2:
                    self.report.counts["left early"] += 1
                    return
        assert end is not None
        assert end.reason in ("stop", "length")
        mix = Mix(tuple(sorted(answer.mix.map(lambda ref: ref.digest).members)))
        self.report.counts["answered"] += 1
        self.report.counts["answered by a mix"] += len(mix.members) > 1
        if self._immediate and not all("@" in member for member in answer.model.split("+")):
            self.report.counts["switched"] += end.mix != mix
            return
        assert end.mix == mix
        if self._names is not None:
            assert self._names(text, mix), (text, mix)
        assert self.report.answers.setdefault((mix, prompt, length), text) == text

    async def _replace(self, count: int) -> None:
        for _ in range(count):
            name, folder = self._chance.choice(NAMES), self._chance.choice(self._folders)
            mode: Mode = "immediate" if self._chance.random() < self._immediate else "drain"
            await self._verb("replaced", self._service.adapters.add(name, folder, mode=mode, trusted=True))

    async def _repeat(self, verb: Callable[[], asyncio.Future[None] | object]) -> None:
        while not self._over:
            await verb()  # type: ignore[misc]
            for _ in range(self._chance.randint(50, 400)):
                await asyncio.sleep(0)

    async def _unload(self) -> None:
        name = self._chance.choice(NAMES)
        disable = self._chance.random() < 0.2
        await self._verb("unloaded", self._service.residents.unload(name, disable=disable))

    async def _move(self) -> None:
        name = self._chance.choice(NAMES)
        fate = self._chance.random()
        if fate < 0.4:
            await self._verb("rolled back", self._service.adapters.rollback(name))
        elif fate < 0.7:
            view = await self._service.adapters.get(name)
            others = [each.record.version for each in view.versions if each.record.version != view.current]
            if others:
                shares = {self._chance.choice(others): self._chance.uniform(1, 60)}
                # A replace may make that version current meanwhile, which is no canary then.
                await self._verb("given a canary", self._service.rollout.canary(name, shares), InvalidRequest)
        else:
            await self._verb("loaded", self._service.residents.load(name))

    async def _remove(self) -> None:
        view = await self._service.adapters.get(self._chance.choice(NAMES))
        if len(view.versions) > 3:
            version = self._chance.choice(view.versions).record.version
            await self._verb("removed", self._service.adapters.remove(view.name, version))

    async def _verb(self, done: str, verb: object, *expected: type[LoradexError]) -> None:
        """Await a verb, which may fail in the ways that are expected; now and then cancel it on the way."""
        task = asyncio.ensure_future(verb)  # type: ignore[arg-type]
        if self._chance.random() < 0.15:
            for _ in range(self._chance.randint(0, 200)):
                await asyncio.sleep(0)
            task.cancel()
        await asyncio.wait((task,))
        if task.cancelled():
            self.report.counts[f"not {done}: cancelled"] += 1
        elif (error := task.exception()) is None:
            self.report.counts[done] += 1
        elif isinstance(error, LoradexError) and isinstance(error, (*EXPECTED, *expected)):
            self.report.counts[f"not {done}: {type(error).__name__}"] += 1
        else:
            raise error
