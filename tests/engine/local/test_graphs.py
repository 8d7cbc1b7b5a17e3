"""Decode steps that are recorded say what the same steps say that are computed as they come."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch

from loradex.engine.local import compiled
from loradex.engine.local.blocks import Blocks
from loradex.engine.local.graphs import SHARERS, sizes
from loradex.engine.local.plan import Chunk
from loradex.engine.local.runner import Runner

from .tiny import DEVICES, Running, sequences, steps, taken_out

ROWS = 4


def prepare(runner: Runner, engine: Any) -> None:
    """Give the runner what it has on a card."""
    if runner.recorded is not None:
        return
    model = runner.model
    compiled.compile_attention(model, runner.block_size)
    table = compiled.compile_triton(model)
    runner.divide = table.divide
    for linear in model.linears.values():
        linear.joint = None
        for slot, own in enumerate(linear.table):
            linear.job.put(slot, own)
    scheduler = engine._loop._scheduler
    blocks = Blocks(scheduler.blocks.count, runner.block_size)
    runner.recorded = compiled.record_graphs(model, table, engine.config, blocks, lambda share: None)


ON_CARDS = pytest.mark.parametrize("device", [pytest.param("cuda", marks=pytest.mark.gpu)], indirect=True)
"""In Triton's interpreter these would take minutes."""


@ON_CARDS
@pytest.mark.parametrize("name", ["qwen2", "gemma3"])
async def test_recorded_steps_say_what_steps_say(name, device, family, running: Running) -> None:
    made = family(name)
    async with running(made, max_num_seqs=ROWS) as engine:
        runner = engine._loop._runner  # the thread is idle: nothing was submitted
        prepare(runner, engine)
        graphs, mixes = runner.recorded, [[], [2], [2], [0, 2]]
        assert graphs is not None
        ours, theirs = [], []
        for recorded, found in ((graphs, ours), (None, theirs)):
            runner.recorded = recorded
            for plan in steps(sequences(made, mixes)):
                assert recorded is None or recorded.takes(plan.chunks, ()) == (len(found) > 0)
                found.append(runner.logits(plan).clone())
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, atol=1e-4, rtol=0)


@ON_CARDS
async def test_adapters_come_and_go_under_recorded_steps(device, family, running: Running) -> None:
    made = family("qwen2")
    async with running(made, max_num_seqs=ROWS) as engine:
        runner = engine._loop._runner
        prepare(runner, engine)
        own = sequences(made, [[0], [1]])
        prompts, first, *_ = steps(own)
        runner.logits(prompts)
        before = runner.logits(first).clone()
        with taken_out(runner, made.adapters[0]):
            without = runner.logits(first).clone()
        again = runner.logits(first)
        torch.testing.assert_close(again, before, atol=1e-6, rtol=0)
        assert (without[0] - before[0]).abs().max() > 1e-3
        torch.testing.assert_close(without[1], before[1], atol=1e-6, rtol=0)


@DEVICES
async def test_one_recorded_step_says_what_the_step_says(device, family, running: Running) -> None:
    made = family("qwen2")
    async with running(made, max_num_seqs=ROWS) as engine:
        runner = engine._loop._runner  # the thread is idle: nothing was submitted
        prepare(runner, engine)
        prompts, first, *_ = steps(sequences(made, [[], [0, 2]]))
        attention = runner.model.attention
        fast = runner.recorded, runner.divide, attention.kernel
        runner.recorded = runner.divide = attention.kernel = None
        runner.logits(prompts)
        theirs = runner.logits(first).clone()
        runner.recorded, runner.divide, attention.kernel = fast
        assert runner.recorded.takes(first.chunks, ())
        torch.testing.assert_close(runner.logits(first), theirs, atol=1e-4, rtol=0)


@DEVICES
async def test_what_cannot_be_recorded_is_left(device, family, running: Running) -> None:
    made = family("qwen2")
    async with running(made, max_num_seqs=ROWS) as engine:
        runner = engine._loop._runner
        prepare(runner, engine)
        own = sequences(made, [[0]])[0]
        last = len(own.tokens) - 1
        one = Chunk(own, last, 1, samples=True)
        graphs = runner.recorded
        assert graphs.takes((one,), ())
        assert not graphs.takes((one,) * (ROWS + 1), ())
        assert not graphs.takes((Chunk(own, last, 1, samples=False),), ())
        assert not graphs.takes((Chunk(own, 0, 2, samples=True),), ())
        segments = tuple(runner._segments([(one, one.start)]))
        assert not graphs.takes((one,), segments * (SHARERS * ROWS + 1))
        runner._changing.add(runner.slots[made.adapters[0].digest])
        assert runner._recorded((one,)) is None


@pytest.mark.parametrize("rows", [1, 3, 8, 16, 50, 64, 256])
def test_few_sizes_are_recorded_and_none_is_much_too_large(rows: int) -> None:
    found = sizes(rows)
    assert found == sorted(set(found))
    assert found[-1] == rows
    assert all(larger <= 2 * smaller for smaller, larger in pairwise(found))
    assert len(found) <= 16
