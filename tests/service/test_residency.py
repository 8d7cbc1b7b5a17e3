from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from loradex.adapters.adapter import Adapter
from loradex.core.adapter import AdapterRef, Reference
from loradex.core.mix import Mix
from loradex.core.request import GenerateRequest
from loradex.core.sampling import Sampling
from loradex.engine.config import EngineConfig
from loradex.engine.fake import FakeEngine
from loradex.errors import AdapterDamaged, AdapterTooLarge, EngineFailed, EngineStopped, Overloaded
from loradex.service.budget import Budget
from loradex.service.lease import Lease
from loradex.service.residency import AHEAD, Residency

from .deck import until

A, B, C, D = (letter * 64 for letter in "abcd")


class Bench:
    """A residency over a fake engine, with adapters that exist by name only."""

    def __init__(
        self,
        folder: Path,
        max_loras: int,
        queue_seconds: float,
        fair_seconds: float,
        memory: int | None = None,
        idle_seconds: float | None = None,
    ) -> None:
        self.engine = FakeEngine(EngineConfig(max_loras=max_loras))
        self.reads: list[str] = []
        self.missing: set[str] = set()
        self.loads: list[float] = []
        self.sizes: dict[str, int] = {}
        self.pinned: set[str] = set()
        self.now = 0.0
        self._folder = folder
        (folder / "adapter_model.safetensors").touch()
        self.residency = Residency(
            self.engine,
            self.read,
            budget=Budget(max_loras, memory),
            queue_seconds=queue_seconds,
            fair_seconds=fair_seconds,
            idle_seconds=idle_seconds,
            pinned=self.pinned,
            clock=self.clock,
            loaded=self.loads.append,
        )

    def clock(self) -> float:
        self.now += 1.0
        return self.now

    async def read(self, digest: str) -> Adapter:
        self.reads.append(digest)
        await asyncio.sleep(0)
        if digest in self.missing:
            raise AdapterDamaged(f"{digest[:4]} is gone")
        return Adapter(digest, self._folder, {}, 4, 0, self.sizes.get(digest, 0), None)

    async def held(self, digest: str, priority: int = 0) -> Lease:
        name = digest[0]
        return await self.residency.acquire(digest, name=name, reference=Reference(name), priority=priority)

    def waiting(self, digest: str, priority: int = 0) -> asyncio.Task[Lease]:
        return asyncio.create_task(self.held(digest, priority))

    def here(self) -> str:
        """First letters of what is in the engine or on its way in or out, sorted."""
        return "".join(sorted(digest[0] for digest in self.residency.states()))

    def resident(self) -> str:
        """First letters of what is resident, sorted."""
        ours = {digest for digest, state in self.residency.states().items() if state.resident}
        assert ours == {resident.digest for resident in self.engine.resident()}
        return "".join(sorted(digest[0] for digest in ours))

    def leases(self, digest: str) -> int:
        states = self.residency.states()
        return states[digest].leases if digest in states else 0

    def queue(self) -> int:
        return sum(state.waiting for state in self.residency.states().values())


MakeBench = Callable[..., Bench]


@pytest_asyncio.fixture
async def make(tmp_path: Path) -> AsyncIterator[MakeBench]:
    benches: list[Bench] = []

    def make(
        max_loras: int = 2, queue_seconds: float = 60.0, fair_seconds: float = 60.0, **options: float | None
    ) -> Bench:
        benches.append(Bench(tmp_path, max_loras, queue_seconds, fair_seconds, **options))
        return benches[-1]

    yield make
    for bench in benches:
        await bench.residency.stop()
        await bench.engine.stop()


async def turns(count: int = 10) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_one_load_serves_all_who_wait_for_it(make: MakeBench) -> None:
    bench = make()
    await bench.engine.start()
    leases = await asyncio.gather(*(bench.held(A) for _ in range(5)))
    assert bench.reads == [A]
    assert len(bench.loads) == 1
    assert bench.leases(A) == 5
    for lease in leases:
        lease.release()
        lease.release()
    assert bench.leases(A) == 0
    assert bench.resident() == "a"


async def test_a_load_goes_on_for_the_second_when_the_first_is_cancelled(make: MakeBench) -> None:
    bench = make()
    await bench.engine.start()
    bench.engine.loads_allowed.clear()
    first, second = bench.waiting(A), bench.waiting(A)
    await turns()
    first.cancel()
    await turns()
    bench.engine.loads_allowed.set()
    lease = await second
    assert first.cancelled()
    assert bench.reads == [A]
    assert bench.leases(A) == 1
    lease.release()


async def test_a_load_that_nobody_waits_for_any_more_ends_idle(make: MakeBench) -> None:
    bench = make()
    await bench.engine.start()
    bench.engine.loads_allowed.clear()
    only = bench.waiting(A)
    await turns()
    only.cancel()
    await turns()
    assert bench.queue() == 0
    bench.engine.loads_allowed.set()
    await bench.residency.settle()
    assert bench.resident() == "a"
    assert bench.leases(A) == 0


async def test_a_failed_load_reaches_everyone_and_leaves_nothing(make: MakeBench) -> None:
    bench = make()
    await bench.engine.start()
    bench.engine.fail_load.add(A)
    results = await asyncio.gather(*(bench.held(A) for _ in range(3)), return_exceptions=True)
    assert [type(result) for result in results] == [EngineFailed] * 3
    assert bench.residency.states() == {}
    bench.engine.fail_load.clear()
    (await bench.held(A)).release()
    assert bench.resident() == "a"
    assert bench.residency.failed_loads == 1


async def test_files_that_cannot_be_read_fail_the_load(make: MakeBench) -> None:
    bench = make()
    await bench.engine.start()
    bench.missing.add(A)
    with pytest.raises(AdapterDamaged):
        await bench.held(A)
    assert bench.residency.states() == {}


async def test_the_least_recently_used_idle_adapter_makes_room(make: MakeBench) -> None:
    bench = make()
    await bench.engine.start()
    for digest in (A, B, A):
        (await bench.held(digest)).release()
    (await bench.held(C)).release()
    assert bench.resident() == "ac"
    assert bench.residency.evictions == 1


async def test_leased_adapters_are_never_evicted(make: MakeBench) -> None:
    bench = make()
    await bench.engine.start()
    old = await bench.held(A)
    (await bench.held(B)).release()
    (await bench.held(C)).release()
    assert bench.resident() == "ac"
    old.release()


async def test_slots_are_given_first_come_first_served(make: MakeBench) -> None:
    bench = make(max_loras=1)
    await bench.engine.start()
    lease = await bench.held(A)
    order: list[str] = []

    async def use(digest: str) -> None:
        got = await bench.held(digest)
        order.append(digest[0])
        await turns(3)
        got.release()

    tasks = [asyncio.create_task(use(digest)) for digest in (B, C, D, B)]
    await turns()
    assert order == []
    lease.release()
    await asyncio.gather(*tasks)
    # The last one asked for B while B was due anyway, so it rode along.
    assert order == ["b", "b", "c", "d"]


async def test_one_who_waits_proceeds_when_the_adapter_became_resident_for_another(make: MakeBench) -> None:
    bench = make(max_loras=1)
    await bench.engine.start()
    lease = await bench.held(A)
    first, second = bench.waiting(B), bench.waiting(B)
    await turns()
    lease.release()
    (await first).release()
    (await second).release()
    assert bench.reads == [A, B]


async def test_the_wait_for_a_slot_is_bounded(make: MakeBench) -> None:
    bench = make(max_loras=1, queue_seconds=0.01)
    await bench.engine.start()
    lease = await bench.held(A)
    with pytest.raises(Overloaded) as caught:
        await bench.held(B)
    assert "--max-loras" in caught.value.hint
    assert bench.queue() == 0
    lease.release()
    (await bench.held(B)).release()


async def test_no_wait_at_all_still_evicts_and_loads(make: MakeBench) -> None:
    bench = make(max_loras=1, queue_seconds=0.0)
    await bench.engine.start()
    (await bench.held(A)).release()
    (await bench.held(B)).release()
    assert bench.resident() == "b"


async def test_cancelled_while_waiting_for_a_slot_lets_the_next_one_through(make: MakeBench) -> None:
    bench = make(max_loras=1)
    await bench.engine.start()
    lease = await bench.held(A)
    first, second = bench.waiting(B), bench.waiting(C)
    await turns()
    first.cancel()
    await turns()
    assert bench.queue() == 1
    lease.release()
    (await second).release()
    assert bench.resident() == "c"
    assert len(bench.loads) == 2


async def test_cancelled_at_the_very_moment_of_the_grant_gives_the_lease_back(make: MakeBench) -> None:
    bench = make()
    await bench.engine.start()
    bench.engine.loads_allowed.clear()
    task = bench.waiting(A)
    await turns()
    bench.engine.loads_allowed.set()
    while not bench.leases(A):
        await asyncio.sleep(0)
    assert not task.done()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert bench.leases(A) == 0


@pytest.mark.parametrize("after", range(12))
async def test_cancelled_after_any_number_of_turns_nothing_stays_taken(make: MakeBench, after: int) -> None:
    bench = make(max_loras=1)
    await bench.engine.start()
    (await bench.held(A)).release()
    task = bench.waiting(B)
    await turns(after)
    task.cancel()
    await asyncio.wait((task,))
    if not task.cancelled():
        task.result().release()
    await bench.residency.settle()
    assert bench.queue() == 0
    assert bench.leases(A) == bench.leases(B) == 0
    assert len(bench.resident()) <= 1


async def test_retired_weights_go_when_the_last_lease_ends(make: MakeBench) -> None:
    bench = make()
    await bench.engine.start()
    first, second = await bench.held(A), await bench.held(A)
    bench.residency.retire(A)
    first.release()
    await bench.residency.settle()
    assert bench.resident() == "a"
    second.release()
    await bench.residency.settle()
    assert bench.resident() == ""


async def test_retired_while_loading_goes_after_those_who_waited(make: MakeBench) -> None:
    bench = make()
    await bench.engine.start()
    bench.engine.loads_allowed.clear()
    task = bench.waiting(A)
    await turns()
    bench.residency.retire(A)
    bench.engine.loads_allowed.set()
    (await task).release()
    await bench.residency.settle()
    assert bench.resident() == ""


async def test_kept_weights_stay(make: MakeBench) -> None:
    bench = make()
    await bench.engine.start()
    lease = await bench.held(A)
    bench.residency.retire(A)
    bench.residency.keep(A)
    lease.release()
    await bench.residency.settle()
    assert bench.resident() == "a"


async def test_asked_for_again_while_it_is_unloaded_it_is_loaded_again(make: MakeBench) -> None:
    bench = make()
    await bench.engine.start()
    (await bench.held(A)).release()
    bench.residency.retire(A)
    (await bench.held(A)).release()
    assert bench.reads == [A, A]
    assert bench.resident() == "a"


async def test_steady_traffic_cannot_keep_a_waiter_out(make: MakeBench) -> None:
    bench = make(max_loras=1, fair_seconds=0.0)
    await bench.engine.start()
    running = await bench.held(A)
    waiter = bench.waiting(B)
    await until(lambda: bench.queue() == 1)
    await asyncio.sleep(0.001)  # the timer of zero seconds
    newcomer = bench.waiting(A)
    await turns()
    assert not newcomer.done()
    running.release()
    lease = await waiter
    assert bench.resident() == "b"
    lease.release()
    (await newcomer).release()
    assert bench.resident() == "a"


async def test_a_closed_slot_opens_again_when_the_waiter_is_gone(make: MakeBench) -> None:
    bench = make(max_loras=1, fair_seconds=0.0)
    await bench.engine.start()
    running = await bench.held(A)
    waiter = bench.waiting(B)
    await asyncio.sleep(0.001)
    newcomer = bench.waiting(A)
    await turns()
    assert not newcomer.done()
    waiter.cancel()
    lease = await newcomer
    assert bench.leases(A) == 2
    lease.release()
    running.release()


async def test_weights_that_the_engine_does_not_free_stay_usable(make: MakeBench) -> None:
    bench = make(max_loras=1)
    await bench.engine.start()
    (await bench.held(A)).release()
    bench.engine.fail_unload.add(A)
    waiter = bench.waiting(B)
    await turns(20)
    assert bench.resident() == "a"
    (await bench.held(A)).release()
    bench.engine.fail_unload.clear()
    (await waiter).release()
    assert bench.resident() == "b"


async def test_another_victim_is_taken_when_one_cannot_be_freed(make: MakeBench) -> None:
    bench = make(max_loras=2)
    await bench.engine.start()
    (await bench.held(A)).release()
    (await bench.held(B)).release()
    bench.engine.fail_unload.add(A)
    (await bench.held(C)).release()
    assert bench.resident() == "ac"


async def drive(bench: Bench, lease: Lease) -> None:
    """Run a request under a lease until cancelled."""
    request = GenerateRequest("r", (1,), Sampling(max_tokens=10**6, ignore_eos=True), Mix.of(lease.begin("r")))
    async for _ in bench.engine.generate(request):
        pass


async def test_move_takes_requests_and_leases_over(make: MakeBench) -> None:
    bench = make()
    await bench.engine.start()
    old, new = await bench.held(A), await bench.held(B)
    running = asyncio.create_task(drive(bench, old))
    await turns()
    moving = asyncio.create_task(bench.residency.move(A, AdapterRef("a", 2, B), Reference("a").__eq__))
    await asyncio.sleep(0)
    late = await bench.held(A)
    assert late.begin("late") == B  # the engine would get it too late for the switch
    assert await moving == 1
    assert old.digest == B
    assert bench.leases(A) == 0
    running.cancel()
    await asyncio.wait((running,))
    for lease in (old, new, late):
        lease.release()
    bench.residency.retire(A)
    await bench.residency.settle()
    assert bench.resident() == "b"


async def test_a_request_that_asked_for_the_old_weights_themselves_is_never_switched(make: MakeBench) -> None:
    bench = make()
    await bench.engine.start()
    pinned = await bench.residency.acquire(A, reference=Reference("a", version=1))
    follower, new = await bench.held(A), await bench.held(B)
    running = asyncio.create_task(drive(bench, pinned))
    await turns()
    late = await bench.residency.acquire(A, reference=Reference("a", version=1))
    assert await bench.residency.move(A, AdapterRef("a", 2, B), Reference("a").__eq__) == 0
    assert (follower.digest, pinned.digest, late.digest, late.begin("late")) == (B, A, A, A)
    assert [held.digest for held in bench.engine.resident() if held.running] == [A]
    running.cancel()
    await asyncio.wait((running,))
    for lease in (pinned, follower, late, new):
        lease.release()


async def test_a_switch_that_fails_leaves_the_leases_where_they_are(make: MakeBench) -> None:
    bench = make()
    await bench.engine.start()
    old, new = await bench.held(A), await bench.held(B)
    bench.engine.fail_switch = True
    with pytest.raises(EngineFailed):
        await bench.residency.move(A, AdapterRef("a", 2, B), Reference("a").__eq__)
    assert (old.digest, old.begin("r")) == (A, A)
    old.release()
    new.release()


async def test_a_released_lease_begins_nothing(make: MakeBench) -> None:
    bench = make()
    await bench.engine.start()
    lease = await bench.held(A)
    lease.release()
    assert lease.digest is None
    with pytest.raises(RuntimeError):
        lease.begin("r")


async def test_stopping_refuses_those_who_wait_and_newcomers(make: MakeBench) -> None:
    bench = make(max_loras=1)
    await bench.engine.start()
    bench.engine.loads_allowed.clear()
    loading, waiting = bench.waiting(A), bench.waiting(B)
    await turns()
    await bench.residency.stop()
    for task in (loading, waiting):
        with pytest.raises(EngineStopped):
            await task
    with pytest.raises(EngineStopped):
        await bench.held(A)
    assert bench.residency.states() == {}


async def test_bytes_are_a_budget_beside_slots(make: MakeBench) -> None:
    bench = make(max_loras=8, memory=100)
    bench.sizes = {A: 40, B: 30, C: 30, D: 60}
    await bench.engine.start()
    for digest in (A, B, C):
        (await bench.held(digest)).release()
    assert bench.resident() == "abc"
    assert bench.residency.room.bytes == 100
    for _ in range(3):
        (await bench.held(A)).release()
    (await bench.held(D)).release()
    assert bench.resident() == "ad"
    assert bench.residency.evictions == 2


async def test_a_large_adapter_waits_until_enough_leases_have_ended(make: MakeBench) -> None:
    bench = make(max_loras=8, memory=100)
    bench.sizes = {A: 40, B: 40, C: 80}
    await bench.engine.start()
    held = [await bench.held(A), await bench.held(B)]
    waiter = bench.waiting(C)
    await turns()
    held[0].release()
    await turns()
    assert not waiter.done()
    assert bench.resident() == "ab"  # nobody goes before all have room
    held[1].release()
    (await waiter).release()
    assert bench.resident() == "c"


async def test_who_needs_less_goes_first_until_the_large_one_has_waited_for_long(make: MakeBench) -> None:
    bench = make(max_loras=8, memory=100, fair_seconds=0.02)
    bench.sizes = {A: 60, B: 80, C: 30, D: 10}
    await bench.engine.start()
    running = await bench.held(A)
    large = bench.waiting(B)
    await turns()
    (await bench.held(C)).release()
    assert bench.resident() == "ac"
    await asyncio.sleep(0.04)
    small = bench.waiting(D)
    await turns()
    assert not small.done()
    running.release()
    (await large).release()
    (await small).release()
    assert bench.resident() == "bd"


async def test_as_many_are_closed_to_newcomers_as_are_needed_and_no_more(make: MakeBench) -> None:
    bench = make(max_loras=8, memory=100, fair_seconds=0.0)
    bench.sizes = {A: 40, B: 30, C: 30, D: 60}
    await bench.engine.start()
    busy = [await bench.held(digest) for digest in (A, A, A, B, C)]
    waiter = bench.waiting(D)
    await asyncio.sleep(0.001)
    newcomers = [bench.waiting(B), bench.waiting(C)]
    (await bench.held(A)).release()  # stays open: B and C are enough
    assert not any(each.done() for each in newcomers)
    for lease in busy[3:]:
        lease.release()
    lease = await waiter
    assert bench.resident() == "ad"
    for each in (lease, *busy[:3]):
        each.release()
    for each in newcomers:
        (await each).release()


async def test_what_can_never_fit_is_refused_at_once(make: MakeBench) -> None:
    bench = make(max_loras=8, memory=100)
    bench.sizes = {A: 101, B: 60, C: 50}
    await bench.engine.start()
    with pytest.raises(AdapterTooLarge):
        await bench.held(A)
    (await bench.held(B)).release()
    bench.pinned.add(B)
    with pytest.raises(AdapterTooLarge):
        await bench.held(C)
    assert bench.queue() == 0
    bench.pinned.clear()
    (await bench.held(C)).release()
    assert bench.resident() == "c"


async def test_the_refusal_after_the_wait_says_which_room_is_short(make: MakeBench) -> None:
    bench = make(max_loras=8, memory=100 << 20, queue_seconds=0.01)
    bench.sizes = {A: 90 << 20, B: 20 << 20}
    await bench.engine.start()
    lease = await bench.held(A)
    with pytest.raises(Overloaded) as caught:
        await bench.held(B)
    assert "needs 20.0 MiB of adapter memory; 10.0 MiB of 100.0 MiB are free" in caught.value.message
    assert "--adapter-memory" in caught.value.hint
    lease.release()


async def test_idle_adapters_leave_after_a_while_unless_they_are_pinned(make: MakeBench) -> None:
    bench = make(max_loras=3, idle_seconds=0.03)
    await bench.engine.start()
    held = await bench.held(A)
    (await bench.held(B)).release()
    (await bench.held(C)).release()
    bench.pinned.add(C)
    await until(lambda: "b" not in bench.here())
    assert (bench.residency.expiries, bench.residency.evictions) == (1, 0)
    assert bench.here() == "ac"
    held.release()
    await until(lambda: bench.here() == "c")
    bench.pinned.clear()
    bench.residency.unpinned(C)
    await until(lambda: bench.here() == "")


async def test_lower_priority_numbers_come_first(make: MakeBench) -> None:
    bench = make(max_loras=1)
    await bench.engine.start()
    running = await bench.held(A)
    order: list[str] = []

    async def use(digest: str, priority: int) -> None:
        got = await bench.held(digest, priority)
        order.append(digest[0])
        await turns(3)
        got.release()

    tasks = [asyncio.create_task(use(digest, priority)) for digest, priority in ((B, 1), (C, 0), (D, -1))]
    await turns()
    running.release()
    await asyncio.gather(*tasks)
    assert order == ["d", "c", "b"]


async def test_hits_and_misses_are_told_apart(make: MakeBench) -> None:
    bench = make()
    await bench.engine.start()
    first = await bench.held(A)
    second = await bench.held(A)
    assert (first.hit, second.hit) == (False, True)
    usage = bench.residency.ledger.of(A)
    assert (usage.hits, usage.misses, usage.loads) == (1, 1, 1)
    first.release()
    second.release()


async def test_of_many_who_wait_only_the_next_few_are_read_and_staged(make: MakeBench) -> None:
    bench = make(max_loras=1)
    await bench.engine.start()
    running = await bench.held(A)
    tasks = [bench.waiting(f"{number:064}") for number in range(30)]
    await turns(20)
    assert bench.queue() == 30
    assert 1 < len(bench.reads) <= 1 + AHEAD + 1
    assert 0 < len(bench.engine.staged) <= AHEAD
    running.release()
    for task in tasks:
        (await task).release()
    assert len(bench.reads) == 31


async def test_an_urgent_one_brings_those_who_wait_for_the_same_forward(make: MakeBench) -> None:
    bench = make(max_loras=1)
    await bench.engine.start()
    running = await bench.held(A)
    order: list[str] = []

    async def use(digest: str, priority: int) -> None:
        got = await bench.held(digest, priority)
        order.append(f"{digest[0]}{priority}")
        await turns(3)
        got.release()

    tasks = [asyncio.create_task(use(*asked)) for asked in ((B, 0), (C, 1), (C, -1), (D, 0))]
    await turns()
    running.release()
    await asyncio.gather(*tasks)
    assert order == ["c-1", "c1", "b0", "d0"]
