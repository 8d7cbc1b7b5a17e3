"""What loads, replaces and unloads cost on servers that run, ours or vLLM's; one alone, or two in turn."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace

import httpx

from loradex.bench.deck import Tell
from loradex.bench.http_target import HttpTarget, address, connected
from loradex.bench.pairs import Pairs, in_turn, percentile
from loradex.bench.play import play
from loradex.bench.result import Record, Result
from loradex.bench.swap import every
from loradex.bench.verbs import Verbs
from loradex.bench.workload import Request, Workload
from loradex.errors import Conflict

HOT, COLD = "bench-hot", "bench-cold"
"""Names that are used on the server, and taken away again: of what is replaced, and of what is loaded and unloaded."""


@dataclass(frozen=True, slots=True)
class Lap:
    """Seconds of one round on one server.

    Attributes:
        load, replace, unload: until the server says that it is done.
        first, warm: to the first token of the first request after the load, and of the next.
        calm, gap: p99 wait between tokens of streams that go on: undisturbed, and while their adapter is replaced.
    """

    load: float
    replace: float
    unload: float
    first: float
    warm: float
    calm: float
    gap: float


@dataclass(frozen=True, slots=True)
class Live:
    """A server that runs: its address, what it does with adapters, and a connection to it."""

    name: str
    verbs: Verbs
    client: httpx.AsyncClient
    folders: Sequence[str]

    async def lap(self, workload: Workload, period: float, number: int) -> Lap:
        """Load, ask twice, replace under streams, and unload; what is loaded changes with the number."""
        order = [self.folders[(number + i) % len(self.folders)] for i in range(len(self.folders))]
        target = HttpTarget(self.client, "", (COLD, HOT))
        requests = [replace(each, adapter=1) for each in workload.make()]
        one = replace(requests[0], adapter=0, output=1)
        load = await self._add(COLD, order[0])
        first, warm = await _ttft(target, one), await _ttft(target, one)
        calm = percentile((await play(target, requests)).gaps, 99)
        done: list[float] = []
        next_one = itertools.cycle(order)
        async with every(period, lambda: self._add(HOT, next(next_one)), done):
            gap = percentile((await play(target, requests)).gaps, 99)
        began = time.perf_counter()
        await asyncio.to_thread(self.verbs.remove, COLD)
        unload = time.perf_counter() - began
        return Lap(load, percentile(done, 50), unload, first, warm, calm, gap)

    async def _add(self, name: str, folder: str) -> float:
        began = time.perf_counter()
        await asyncio.to_thread(self.verbs.add, name, folder)
        return time.perf_counter() - began


async def _ttft(target: HttpTarget, request: Request) -> float:
    return (await play(target, [request])).ttfts[0]


async def swap_live(
    name: str,
    workload: Workload,
    period: float,
    pairs: int,
    servers: Sequence[tuple[str, Verbs]],
    folders: Sequence[str],
    key: str,
    tell: Tell,
) -> Result:
    """Measure one server, or two in turn.

    Args:
        name: of the result.
        workload: the streams that go on while their adapter is replaced.
        period: seconds from one replace to the next.
        pairs: how often is measured.
        servers: address and verbs of each.
        folders: the adapters that are loaded in turn, as the servers find them; two at least.
        key: for both.
        tell: told how far it is.

    Raises:
        Conflict: a server has an adapter of a name that is used here.
        LoradexError: a server refuses an adapter, or breaks.
    """
    record = Record("swap", name)
    async with AsyncExitStack() as stack:
        lives = [await stack.enter_async_context(_live(url, verbs, key, folders)) for url, verbs in servers]
        laps = await _laps(lives, workload, period, pairs, tell)
    rows = _alone(lives[0].name, laps[0]) if len(lives) == 1 else _beside(lives[0].name, lives[1].name, *laps)
    described = workload.describe() | {"period": period}
    model = {"servers": [live.name for live in lives], "adapters": list(folders)}
    return record.result(rows, floor=None, workload=described, model=model, raw={})


@asynccontextmanager
async def _live(url: str, verbs: Verbs, key: str, folders: Sequence[str]) -> AsyncIterator[Live]:
    """Connect, and serve the adapter that is replaced; both names are gone in the end."""
    names = {each.name for each in await asyncio.to_thread(verbs.list)}
    for taken in names & {HOT, COLD}:
        hint = f"Take it away: loradex adapter rm {taken} --url {url}"
        raise Conflict(f"{url} has an adapter `{taken}` already", hint=hint)
    async with connected(url, key) as client:
        try:
            await asyncio.to_thread(verbs.add, HOT, folders[0])
            yield Live(address(url), verbs, client, folders)
        finally:
            there = {each.name for each in await asyncio.to_thread(verbs.list)}
            for name in there & {HOT, COLD}:
                await asyncio.to_thread(verbs.remove, name)


async def _laps(
    lives: Sequence[Live], workload: Workload, period: float, pairs: int, tell: Tell
) -> tuple[list[Lap], ...]:
    counts = [itertools.count() for _ in lives]
    runs = [lambda i=i: lives[i].lap(workload, period, next(counts[i])) for i in range(len(lives))]
    if len(runs) == 2:
        return await in_turn(runs[0], runs[1], pairs, tell)
    laps = []
    for turn in range(pairs + 1):
        laps.append(await runs[0]())
        tell("rounds", (turn + 1) / (pairs + 1))
    return (laps[1:],)  # the first found cold caches


_VERBS = ("load", "replace", "unload")


def _alone(server: str, laps: Sequence[Lap]) -> list[Pairs]:
    rows = [Pairs(verb, server, "", "s", tuple(getattr(lap, verb) for lap in laps), (), "lower") for verb in _VERBS]
    sides = (
        ("first token", "after a load", "warm", "first", "warm"),
        ("p99 gap while replacing", "replacing", "undisturbed", "gap", "calm"),
    )
    for what, one, other, a, b in sides:
        first, second = (tuple(getattr(lap, name) for lap in laps) for name in (a, b))
        rows.append(Pairs(what, one, other, "s", first, second, "lower"))
    return rows


def _beside(one: str, other: str, a: Sequence[Lap], b: Sequence[Lap]) -> list[Pairs]:
    named = [(verb, verb) for verb in _VERBS]
    named += [("first token after a load", "first"), ("warm first token", "warm")]
    named += [("p99 gap while replacing", "gap"), ("p99 gap undisturbed", "calm")]
    return [
        Pairs(what, one, other, "s", tuple(getattr(x, key) for x in a), tuple(getattr(x, key) for x in b), "lower")
        for what, key in named
    ]
