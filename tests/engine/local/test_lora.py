"""The LoRA kernel says what the reference says, and the engine takes it for decodes."""

from __future__ import annotations

import random
import sys

import pytest
import torch

from loradex.core.mix import Mix
from loradex.core.sampling import Sampling
from loradex.engine.local import compiled, lora_job
from loradex.engine.local.batch import Narrow
from loradex.engine.local.engine import LocalEngine
from loradex.engine.local.lora import LoraPair, Segment, Table, apply_lora
from loradex.engine.local.lora_job import LoraJob
from loradex.engine.local.plan import Chunk, StepPlan
from loradex.engine.local.sequence import Sequence

from . import tiny
from .tiny import Family, Running

SHAPES = [(64, 96), (1026, 30), (34, 2310)]
"""Widths that are and are not multiples of what the kernel takes at once, and more than it takes at once."""


def pair(rank: int, shape: tuple[int, int], dtype: torch.dtype) -> LoraPair:
    a, b = torch.randn(rank, shape[0]) / shape[0] ** 0.5, torch.randn(rank, shape[1])
    return LoraPair(a.to(dtype), b.to(dtype), 0.5 + rank / 64)


def deck(ranks: list[int | None], shape: tuple[int, int], dtype: torch.dtype) -> tuple[Table, LoraJob]:
    """Return the same adapters for the reference and for the kernel, one of each rank; None leaves the slot empty."""
    table: Table = [None if rank is None else pair(rank, shape, dtype) for rank in ranks]
    job = LoraJob(*shape, len(ranks), dtype)
    for slot, own in enumerate(table):
        job.put(slot, own)
    return table, job


def compare(x: torch.Tensor, y: torch.Tensor, segments: list[Segment], table: Table, job: LoraJob) -> None:
    """Both add to copies of `y`; the reference does it in float32."""
    wide: Table = [own and LoraPair(own.a.float(), own.b.float(), own.scaling) for own in table]
    theirs, ours = y.float(), y.clone()
    apply_lora(x.float(), theirs, segments, wide)
    job.add(x, ours, Narrow(segments))
    assert ours.dtype == y.dtype
    exact = y.dtype == torch.float32
    # One rounding of the sum is all that bfloat16 may cost: half a unit of its 8 bits.
    torch.testing.assert_close(ours.float(), theirs, atol=1e-5 if exact else 1e-4, rtol=1e-5 if exact else 2**-8)


@pytest.fixture(params=[1, 2], ids=["alone", "two threads"])
def threads(request: pytest.FixtureRequest):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rank", [1, 4, 13, 64])
def test_one_segment_of_one_to_eight_rows(rank: int, shape: tuple[int, int], dtype: torch.dtype) -> None:
    torch.manual_seed(rank)
    table, job = deck([rank], shape, dtype)
    for rows in range(1, 9):
        x, y = torch.randn(rows, shape[0]).to(dtype), torch.randn(rows, shape[1]).to(dtype)
        compare(x, y, [Segment(0, rows, 0)], table, job)
    assert job.calls == 8


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES)
def test_mixed_slots_with_rows_of_the_base_between(shape: tuple[int, int], dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    chance = random.Random(1)
    table, job = deck([4, None, 13, 1, 64, None, 16, 5], shape, dtype)
    for _ in range(10):
        segments, row = [], 0
        for slot in chance.sample(range(8), chance.randrange(1, 8)):
            row += chance.randrange(3)
            segments.append(Segment(row, row + chance.randrange(1, 9), slot))
            row = segments[-1].end
        rows = row + chance.randrange(3)
        x, y = torch.randn(rows, shape[0]).to(dtype), torch.randn(rows, shape[1]).to(dtype)
        compare(x, y, segments, table, job)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES)
def test_rows_with_several_weighted_adapters(shape: tuple[int, int], dtype: torch.dtype) -> None:
    torch.manual_seed(4)
    chance = random.Random(4)
    table, job = deck([4, None, 13, 1, 64, 32, 16, 5], shape, dtype)
    for _ in range(10):
        segments, row = [], 0
        for _ in range(chance.randrange(1, 5)):
            row += chance.randrange(3)
            end = row + chance.randrange(1, 9)
            for slot in chance.sample(range(8), chance.randrange(1, 5)):
                segments.append(Segment(row, end, slot, chance.choice([1.0, 0.3, -0.7, 0.0])))
            row = end
        x, y = torch.randn(row, shape[0]).to(dtype), torch.randn(row, shape[1]).to(dtype)
        compare(x, y, segments, table, job)
        first, again = y.clone(), y.clone()
        job.add(x, first, Narrow(segments))
        job.add(x, again, Narrow(segments))
        assert torch.equal(first, again)


def test_rows_outside_the_segments_are_not_touched() -> None:
    table, job = deck([4, 8], (64, 96), torch.bfloat16)
    x, y = torch.randn(5, 64).bfloat16(), torch.randn(5, 96).bfloat16()
    before = y.clone()
    job.add(x, y, Narrow([Segment(1, 2, 1), Segment(3, 4, 0)]))
    assert torch.equal(y[::2], before[::2])
    assert not torch.equal(y[1::2], before[1::2])
    assert table[0] is not None


def test_an_input_that_is_not_contiguous() -> None:
    torch.manual_seed(2)
    for dtype in (torch.float32, torch.bfloat16):
        table, job = deck([4, 8], (64, 96), dtype)
        x = torch.randn(64, 6).to(dtype).t()
        compare(x, torch.randn(6, 96).to(dtype), [Segment(0, 2, 1), Segment(3, 6, 0)], table, job)


def test_a_slot_can_be_emptied_and_filled_again() -> None:
    torch.manual_seed(3)
    table, job = deck([4, 32], (64, 96), torch.float32)
    x, y, segments = torch.randn(4, 64), torch.randn(4, 96), [Segment(0, 2, 0), Segment(2, 4, 1)]
    for slot, own in ((1, None), (0, None), (0, pair(64, (64, 96), torch.float32)), (1, pair(3, (64, 96), x.dtype))):
        table[slot] = own
        job.put(slot, own)
        compare(x, y, segments, table, job)


def test_what_is_not_finite_stays_so() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        _, job = deck([4], (64, 96), dtype)
        x, y = torch.ones(2, 64).to(dtype), torch.ones(2, 96).to(dtype)
        x[0, 3], y[1, 5] = torch.nan, torch.inf
        job.add(x, y, Narrow([Segment(0, 2, 0)]))
        assert y[0].isnan().all()
        assert y[1, 5] == torch.inf
        assert y[1, :5].isfinite().all()


def decodes(family: Family, rows: list[int | None]) -> tuple[StepPlan, StepPlan]:
    """Return a prefill and a decode of one mixed batch; a number is an adapter, None the base."""
    digests = [None if adapter is None else family.adapters[adapter].digest for adapter in rows]
    chance = random.Random(5)
    prefill, decode = [], []
    for i, digest in enumerate(sorted(digests, key=lambda digest: digest or "")):
        tokens = [chance.randrange(256) for _ in range(20 + i)]
        made = Sequence(str(i), tokens, len(tokens), Sampling(), Mix.of(digest), blocks=[2 * i, 2 * i + 1])
        prefill.append(Chunk(made, 0, len(tokens) - 1, samples=False))
        decode.append(Chunk(made, len(tokens) - 1, 1, samples=True))
    return StepPlan(tuple(prefill)), StepPlan(tuple(decode))


def calls(engine: LocalEngine) -> list[int]:
    """Return how often the kernel has run, for each linear that some adapter changes."""
    return [linear.job.calls for linear in engine._model.linears.values() if any(linear.table)]


async def both_paths(made: Family, running: Running, **settings: object) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the logits of one mixed decode batch by the kernel and by the reference."""
    async with running(made, **settings) as engine:
        own = engine._loop._runner  # the thread is idle: nothing was submitted
        prefill, decode = decodes(made, [None, 0, 1, 2, 2, None, 0, 2])
        divide, own.divide = own.divide, None
        own.logits(prefill)
        reference = own.logits(decode)
        assert not any(calls(engine))
        own.divide = divide
        fast = own.logits(decode)
        assert all(calls(engine))
    return fast, reference


@pytest.mark.parametrize("name", [*tiny.FAMILIES, *tiny.OTHERS])
async def test_an_engine_decodes_by_the_kernel(name: str, family, running: Running) -> None:
    made = family(name)
    fast, reference = await both_paths(made, running)
    torch.testing.assert_close(fast, reference, atol=1e-4, rtol=0)


async def test_an_engine_in_bfloat16_decodes_by_the_kernel(family, running: Running, tmp_path) -> None:
    base = tiny.save_base("qwen2", tmp_path, torch.bfloat16)
    made = Family("qwen2", base, family("qwen2").adapters)
    fast, reference = await both_paths(made, running)
    _, exact = await both_paths(made, running, dtype="float32")
    # Rounding moves both away from the truth; the kernel, which rounds less, no further than the reference.
    assert not torch.equal(fast, reference)
    assert (fast - exact).norm() <= 1.1 * (reference - exact).norm()
    assert (fast - reference).norm() <= 0.1 * reference.norm()


async def test_answers_come_from_the_kernel(family, running: Running) -> None:
    """The parity tests run like this one: were the kernel left out there, they would not test it."""
    made = family("llama")
    async with running(made) as engine:
        assert engine._loop._runner.divide is lora_job.divide
        prefill, decode = decodes(made, [0, 1, 2])
        engine._loop._runner.execute(prefill)
        assert not any(calls(engine))
        engine._loop._runner.execute(decode)
        assert all(calls(engine))


async def test_without_numba_the_reference_serves(family, running: Running, monkeypatch, caplog) -> None:
    made = family("llama")
    monkeypatch.setitem(sys.modules, "numba.core.errors", None)
    async with running(made) as engine:
        assert engine._loop._runner.divide is None
        prefill, decode = decodes(made, [0, 1, 2])
        engine._loop._runner.logits(prefill)
        slow = engine._loop._runner.logits(decode)
    assert [record.name for record in caplog.records if record.levelname == "WARNING"] == [compiled.log.name]
    monkeypatch.undo()
    async with running(made) as engine:
        engine._loop._runner.logits(prefill)
        torch.testing.assert_close(engine._loop._runner.logits(decode), slow, atol=1e-4, rtol=0)
