"""Nobody starves: every request gets its weights within a bound, whatever the others ask for, on a simulated clock."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loradex.adapters.adapter import Adapter
from loradex.engine.config import EngineConfig
from loradex.engine.fake import FakeEngine
from loradex.service.budget import Budget
from loradex.service.residency import Residency
from loradex.service.waiting import PATIENCE

from .virtual import run

FAIR, ANSWER = 1.0, 3.0
SLOTS, MEMORY = 3, 100
SIZES = (10, 30, 50, 60, 90, 100)
"""Of the adapters, by number; the last needs all others out."""


@dataclass(frozen=True)
class Asked:
    """A request: when it comes, for which adapter, how long its answer takes, and how urgent it is."""

    at: float
    adapter: int
    seconds: float
    priority: int


requests = st.builds(
    Asked,
    at=st.floats(0, 60),
    adapter=st.integers(0, len(SIZES) - 1),
    seconds=st.floats(0.01, ANSWER),
    priority=st.sampled_from((0, 0, 5)),
)
steady = st.lists(st.tuples(st.integers(0, 3), st.floats(0.05, 0.5), st.sampled_from((0, -1))), min_size=1, max_size=3)
"""Popular adapters, each asked for again and again at such intervals, with this priority."""


class Simulation:
    """A residency under load; what breaks a promise is an AssertionError."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.engine = FakeEngine(EngineConfig(max_loras=SLOTS))
        self.residency = Residency(
            self.engine,
            self._read,
            budget=Budget(SLOTS, MEMORY),
            queue_seconds=1e6,
            fair_seconds=FAIR,
            clock=lambda: asyncio.get_running_loop().time(),
            loaded=lambda seconds: None,
        )
        self.waits: dict[int, float] = {}

    async def _read(self, digest: str) -> Adapter:
        await asyncio.sleep(0.001)
        return Adapter(digest, self._folder, {}, 4, 0, SIZES[int(digest)], None)

    def check(self) -> None:
        held = self.engine.resident()
        assert len(held) <= SLOTS
        assert sum(each.bytes for each in held) <= MEMORY

    async def ask(self, asked: Asked) -> float:
        """Be one request; return how long it waited."""
        loop = asyncio.get_running_loop()
        await asyncio.sleep(asked.at - loop.time())
        lease = await self.residency.acquire(str(asked.adapter), priority=asked.priority)
        waited = loop.time() - asked.at
        self.check()
        await asyncio.sleep(asked.seconds)
        assert lease.digest in {each.digest for each in self.engine.resident()}  # nothing leased was evicted
        lease.release()
        return waited

    async def play(self, popular: list[tuple[int, float, int]], rest: list[Asked]) -> list[float]:
        await self.engine.start()
        flood = [
            Asked(i * every, adapter, ANSWER, priority)
            for adapter, every, priority in popular
            for i in range(int(90 / every))
        ]
        waits = await asyncio.gather(*(self.ask(each) for each in [*rest, *flood]))
        await self.residency.settle()
        assert not any(hold.leases or hold.waiting for hold in self.residency.states().values())
        await self.residency.stop()
        await self.engine.stop()
        return waits[: len(rest)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapters")
    (folder / "adapter_model.safetensors").touch()
    return folder


@settings(max_examples=25, deadline=None)
@given(steady, st.lists(requests, min_size=1, max_size=12))
def test_every_request_gets_its_weights_within_a_bound(
    folder: Path, popular: list[tuple[int, float, int]], rest: list[Asked]
) -> None:
    waits = run(Simulation(folder).play(popular, rest))
    # Before its turn comes, each other adapter has had one: it drains what is in its way, and is drained.
    bound = PATIENCE * FAIR + len(SIZES) * (FAIR + 2 * ANSWER)
    assert max(waits) <= bound
