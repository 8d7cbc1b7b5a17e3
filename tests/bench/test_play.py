from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from loradex.bench.bed import Plan
from loradex.bench.http_target import HttpTarget, address, model_names
from loradex.bench.latency import latency_of
from loradex.bench.length import Length
from loradex.bench.play import Played, Timeline, play
from loradex.bench.servers import two_sides
from loradex.bench.shape import CLASSES
from loradex.bench.throughput import Side, compare, rows
from loradex.bench.workload import Request, Workload
from loradex.engine.config import EngineConfig
from loradex.errors import ConfigInvalid, EngineFailed, ServerUnreachable
from tests.server.serving import save_adapter, served


def line(sent: float, times: list[float], prompt: int = 4) -> Timeline:
    return Timeline(Request(0, None, (1,) * prompt, len(times)), sent, times, [1] * len(times))


def test_phases_are_told_apart() -> None:
    run = Played((line(0.0, [1.0, 3.0, 4.0]), line(0.0, [2.0, 3.0])), 0.0, 4.0)
    assert (run.seconds, run.tokens, run.rate) == (4.0, 5, 1.25)
    assert (run.all_began, run.prefill_rate) == (2.0, 4.0)
    assert (run.decode_seconds, run.decode_rate, run.late_steps) == (2.0, 1.5, 2)
    assert run.ttfts == [1.0, 2.0]
    assert run.gaps == [2.0, 1.0, 1.0]
    assert run.steady_gaps == [1.0, 1.0]
    assert run.describe()["itl_max"] == 2.0


def test_an_empty_run_has_no_rates() -> None:
    run = Played((line(0.0, []),), 0.0, 0.0)
    assert (run.rate, run.prefill_rate, run.decode_rate, run.ttfts) == (0.0, 0.0, 0.0, [0.0])


class Failing:
    async def stream(self, request: Request) -> AsyncIterator[int]:
        yield 1
        raise EngineFailed("broken")


async def test_one_failure_ends_the_run() -> None:
    with pytest.raises(EngineFailed):
        await play(Failing(), [Request(i, None, (1,), 2) for i in range(3)])


@contextmanager
def server(folder: Path, adapters: int) -> Iterator[str]:
    folder.mkdir()
    with served(folder) as deck, httpx.Client(base_url=deck.url) as client:
        for index in range(adapters):
            path = save_adapter(deck.folder / f"a{index}", seed=index)
            client.post("/api/adapters", json={"name": f"a{index}", "path": str(path)}).raise_for_status()
        yield deck.url


async def test_two_servers_answer_the_same_requests(tmp_path: Path) -> None:
    law = Workload(4, 2, "uniform", input=Length.parse("6"), output=Length.parse("5"))
    with server(tmp_path / "one", 2) as one, server(tmp_path / "two", 2) as two:
        async with two_sides(one + "/v1", two, law) as (a, b):
            found = await compare(a, b, 2, lambda stage, share: None)
            assert [run.tokens for run in (*found.a, *found.b)] == [20] * 4
            assert [row.what for row in rows(a, b, found, None)] == ["end to end", "prefill", "decode"]
        async with two_sides(one, None, law) as (a, b):
            assert isinstance(a.timed([1.0] * 4), Side)
            assert {each.adapter for each in a.requests} == {0, 1}
            assert {each.adapter for each in b.requests} == {None}
        with pytest.raises(ConfigInvalid, match="serves 2 adapters"):
            async with two_sides(one, None, Workload(9, 9)):
                pass


async def test_a_server_that_refuses_or_is_not_there(tmp_path: Path) -> None:
    asked = [Request(0, 0, (20, 21), 3)]
    with server(tmp_path / "one", 0) as url:
        async with httpx.AsyncClient(base_url=url) as client:
            with pytest.raises(EngineFailed, match="404"):
                await play(HttpTarget(client, "tiny-base", ["nobody"]), asked)
            assert await model_names(client) == ["tiny-base"]
    async with httpx.AsyncClient(base_url="http://127.0.0.1:9") as client:
        with pytest.raises(ServerUnreachable):
            await play(HttpTarget(client, "x", ["y"]), asked)
        with pytest.raises(ServerUnreachable):
            await model_names(client)
    with pytest.raises(ConfigInvalid):
        address("nowhere")


async def test_latency_of_a_server(tmp_path: Path) -> None:
    law = Workload(3, 1, "identical", input=Length.parse("6"), output=Length.parse("4"), rate=200.0)
    plan = Plan("fake", EngineConfig(), tmp_path, CLASSES["a-ref"], 1, 2, 1, "mine")
    with server(tmp_path / "one", 1) as url:
        async with two_sides(url, None, law) as (a, b):
            result = await latency_of(a, b, plan, law, 0.5, lambda stage, share: None)
    assert (result.kind, result.name, len(result.rows)) == ("latency", "mine", 6)
    assert all(row.a[0] > 0 for row in result.rows)
