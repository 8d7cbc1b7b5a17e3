"""The LoRA kernel of graphics cards says what the reference says: in Triton's interpreter, and by `make test-gpu`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch

from loradex.engine.local import compiled
from loradex.engine.local.change import affine
from loradex.engine.local.lora import LoraPair, Segment, Table, apply_lora
from loradex.engine.local.triton_job import DTYPES, TritonGroup, TritonJob, TritonTable, deviation

from .test_lora import calls, decodes, pair
from .tiny import DEVICES, Running

RANKS = [4, None, 13, 1, 80, 64, 16]
WIDE, DEEP = (40, 300), (150, 34)
"""More outputs than a tile of few or of many rows has, and more inputs than are read at a time; no width is round."""

ROUNDING = {torch.float32: 4e-6, torch.float16: 2**-10, torch.bfloat16: 2**-6}
"""As a share of all terms of a sum: the products of x and a are rounded, and the sum. To bfloat16 the interpreter does
not round but cuts bits off, which is twice as far."""

MIXED = [
    Segment(1, 2, 0),
    Segment(2, 5, 1),
    Segment(5, 6, 2, 0.7),
    Segment(5, 6, 4, -0.3),
    Segment(5, 6, 1),
    Segment(6, 7, 3),
    Segment(7, 24, 5),
    Segment(24, 92, 0, 2.0),
    Segment(24, 92, 2, 0.5),
    Segment(24, 92, 4, 0.0),
    Segment(93, 109, 6),
]
"""Tiles of few and of many rows, one of four; rows of the base between; one to three adapters a row."""


class Linear:
    """One of three linears with the same adapters for the reference and for the kernel, one of each rank."""

    def __init__(self, shape: tuple[int, int], dtype: torch.dtype, device: torch.device) -> None:
        self.shape, self.dtype, self.device = shape, dtype, device
        self.table: Table = [None] * len(RANKS)
        self.addresses = TritonTable(len(RANKS), 3, device)
        self.job = TritonJob(self.addresses, 1)
        for slot, rank in enumerate(RANKS):
            self.put(slot, rank)

    def put(self, slot: int, rank: int | None) -> None:
        made = None if rank is None else pair(rank, self.shape, self.dtype)
        own = None if made is None else LoraPair(made.a.to(self.device), made.b.to(self.device), made.scaling)
        self.table[slot] = own
        self.job.put(slot, own)

    def rows(self, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        x, y = torch.randn(count, self.shape[0]), torch.randn(count, self.shape[1])
        return x.to(self.device, self.dtype), y.to(self.device, self.dtype)

    def add(self, x: torch.Tensor, y: torch.Tensor, segments: list[Segment]) -> torch.Tensor:
        ours = y.clone()
        tiles, left = self.addresses.divide(segments)
        assert left == ()
        self.job.add(x, ours, tiles)
        return ours

    def compare(self, x: torch.Tensor, y: torch.Tensor, segments: list[Segment]) -> torch.Tensor:
        ours = self.add(x, y, segments)
        assert_rounded(x, y, ours, segments, self.table)
        return ours


def assert_rounded(x: torch.Tensor, y: torch.Tensor, ours: torch.Tensor, segments: list[Segment], table: Table) -> None:
    """Assert that `ours` is what the reference in float32 adds to `y`, but for rounding."""
    wide: Table = [own and LoraPair(own.a.float(), own.b.float(), own.scaling) for own in table]
    theirs, terms = y.float().clone(), y.float().abs()
    apply_lora(x.float(), theirs, segments, wide)
    for segment in segments:
        rows, own = slice(segment.start, segment.end), wide[segment.slot]
        if own is not None:
            product = (x[rows].float() @ own.a.t()).abs() @ own.b.abs()
            terms[rows] += abs(segment.weight) * own.scaling * product
    assert ours.dtype == y.dtype
    assert ((ours.float() - theirs).abs() <= ROUNDING[y.dtype] * terms).all()


@DEVICES
@pytest.mark.parametrize(
    ("shape", "dtype"), [(WIDE, torch.float32), (WIDE, torch.bfloat16), (DEEP, torch.bfloat16), (DEEP, torch.float16)]
)
def test_mixed_segments(shape: tuple[int, int], dtype: torch.dtype, device: torch.device) -> None:
    torch.manual_seed(1)
    linear = Linear(shape, dtype, device)
    x, y = linear.rows(110)
    ours = linear.compare(x, y, MIXED)
    held = {row for segment in MIXED for row in range(segment.start, segment.end) if linear.table[segment.slot]}
    base = [row for row in range(110) if row not in held]
    assert 0 in base
    assert torch.equal(ours[base], y[base])
    assert torch.equal(linear.add(x, y, MIXED), ours)


@DEVICES
@pytest.mark.parametrize(("widths", "dtype"), [((300, 34, 70), torch.bfloat16), ((34, 300), torch.float32)])
def test_linears_with_one_input_are_computed_together(
    widths: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> None:
    torch.manual_seed(5)
    addresses = TritonTable(2, 5, device)
    jobs = [TritonJob(addresses, 1 + member) for member in range(len(widths))]
    tables: list[Table] = []
    for job, width, ranks in zip(jobs, widths, ((4, 80), (None, 13), (16, None)), strict=False):
        pairs = [None if rank is None else pair(rank, (40, width), dtype) for rank in ranks]
        tables.append([own and LoraPair(own.a.to(device), own.b.to(device), own.scaling) for own in pairs])
        for slot, own in enumerate(tables[-1]):
            job.put(slot, own)
    x = torch.randn(90, 40).to(device, dtype)
    before = [torch.randn(90, width).to(device, dtype) for width in widths]
    segments = [Segment(0, 1, 0), Segment(1, 9, 1), Segment(1, 9, 0, 0.5), Segment(10, 80, 0, 2.0), Segment(10, 80, 1)]
    after = [y.clone() for y in before]
    TritonGroup(jobs).add(x, after, addresses.divide(segments)[0])
    for y, ours, table in zip(before, after, tables, strict=True):
        assert_rounded(x, y, ours, segments, table)
    assert [job.calls for job in jobs] == [1] * len(widths)


@DEVICES
def test_no_rows_with_an_adapter_that_changes_this_linear(device: torch.device) -> None:
    linear = Linear((40, 300), torch.bfloat16, device)
    x, y = linear.rows(3)
    assert torch.equal(linear.add(x, y, [Segment(0, 3, 1)]), y)
    assert linear.job.calls == 0
    assert linear.add(*linear.rows(0), [Segment(0, 0, 0)]).shape == (0, 300)


@DEVICES
def test_inputs_and_pairs_that_lie_anywhere(device: torch.device) -> None:
    torch.manual_seed(2)
    linear = Linear((40, 300), torch.bfloat16, device)
    for slot in (0, 4):
        own = linear.table[slot]
        a, b = (torch.cat([part.new_zeros(1), part.flatten()])[1:].view(part.shape) for part in (own.a, own.b))
        linear.table[slot] = LoraPair(a, b, own.scaling)
        linear.job.put(slot, linear.table[slot])
    x, y = torch.randn(40, 5).to(device, torch.bfloat16).t(), linear.rows(5)[1]
    linear.compare(x, y, [Segment(0, 2, 0), Segment(3, 5, 4)])


@DEVICES
def test_a_slot_can_be_emptied_and_filled_again(device: torch.device) -> None:
    torch.manual_seed(3)
    linear = Linear((40, 30), torch.float32, device)
    x, y = linear.rows(24)
    for slot, rank in ((1, 5), (0, None), (0, 64), (1, 3)):
        linear.put(slot, rank)
        linear.compare(x, y, [Segment(0, 2, 0), Segment(2, 24, 1)])


@DEVICES
@pytest.mark.parametrize("rows", [2, 20])
def test_what_is_not_finite_stays_so_and_where_it_is(rows: int, device: torch.device) -> None:
    linear = Linear((40, 30), torch.bfloat16, device)
    x, y = linear.rows(rows)
    x[0, 3], y[1, 5] = torch.nan, torch.inf
    ours = linear.add(x, y, [Segment(0, rows, 0)])
    assert ours[0].isnan().all()
    assert ours[1, 5] == torch.inf
    assert ours[1, :5].isfinite().all()
    assert ours[2:].isfinite().all()


@DEVICES
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_check_at_start_sees_no_more_than_rounding(dtype: torch.dtype, device: torch.device) -> None:
    torch.manual_seed(4)
    assert 0 < deviation(40, [30, 300, 8], dtype, device) <= DTYPES[dtype] / 2


@DEVICES
async def test_an_engine_computes_prompts_and_decodes_by_the_kernel(device, family, running: Running) -> None:
    made = family("qwen3")
    async with running(made) as engine:
        runner = engine._loop._runner  # the thread is idle: nothing was submitted
        runner.recorded = None  # what is recorded runs past the counting
        linears = runner.model.linears.values()
        if device.type == "cpu":  # the interpreter stands in for the card
            runner.divide = compiled.compile_triton(runner.model).divide
            for linear in linears:
                for slot, own in enumerate(linear.table):
                    linear.job.put(slot, own)
        kernel, groups = runner.divide, [linear.group for linear in linears]
        assert isinstance(kernel.__self__, TritonTable)
        assert sorted(Counter(filter(None, groups)).values()) == [2, 2, 3, 3]
        # What is done to an output before its pair is added, in a group too.
        first = next(iter(linears))
        first.change(runner.slots[made.adapters[0].digest], affine(torch.tensor(1.5, device=device), None))
        for plan in decodes(made, [None, 0, 1, 2, 2, None, 0, 2]):
            for linear in linears:
                linear.group = None
            runner.divide, before = None, calls(engine)
            theirs = runner.logits(plan)
            assert calls(engine) == before
            for linear, group in zip(linears, groups, strict=True):
                linear.group = group
            runner.divide = kernel
            torch.testing.assert_close(runner.logits(plan), theirs, atol=1e-4, rtol=0)
            assert all(after > earlier for after, earlier in zip(calls(engine), before, strict=True))


@pytest.mark.parametrize("reason", ["it is not installed", "it says something else"])
async def test_without_the_kernel_the_reference_serves(reason, family, running, monkeypatch, caplog) -> None:
    if reason == "it is not installed":
        monkeypatch.setitem(sys.modules, "triton", None)
    else:
        monkeypatch.setattr("loradex.engine.local.triton_job.deviation", lambda *shape: float("nan"))
    async with running(family("llama")) as engine:
        model = engine._model
        for linear in model.linears.values():
            linear.job = None
        assert compiled.compile_triton(model) is None
        assert not any(linear.job for linear in model.linears.values())
    assert [record.name for record in caplog.records if record.levelname == "WARNING"] == [compiled.log.name]


def test_the_compiler_takes_what_the_interpreter_runs(tmp_path: Path) -> None:
    environment = os.environ | {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    program = Path(__file__).with_name("compile_triton.py")
    done = subprocess.run([sys.executable, program], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert set(found) == {"few products", "few", "many products", "many"}
    for name, kernel in found.items():
        assert 0 < kernel["shared"] <= 99 << 10, name  # what a program may have on a consumer card
        assert kernel["numbers read one by one"] == 0, name  # that pairs are aligned must reach the compiler
