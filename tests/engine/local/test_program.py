"""Decode steps that are laid out as a program say what the same steps say that the model's modules compute."""

from __future__ import annotations

from typing import Any

import pytest
import torch

pytest.importorskip("numba")

from loradex.engine.local import compiled, model
from loradex.engine.local.gemv_job import GemvJob
from loradex.engine.local.packed import multiplies_bfloat16
from loradex.engine.local.panel_linear import PanelLinear
from loradex.engine.local.panels import Panels
from loradex.engine.local.plan import Chunk
from loradex.engine.local.program import Program
from loradex.engine.local.runner import Runner
from loradex.engine.local.sequence import Sequence

from .tiny import Running, sequences, steps, taken_out

METHODS = [
    pytest.param(
        "none", marks=pytest.mark.skipif(multiplies_bfloat16(), reason="oneDNN multiplies bfloat16 here, not panels")
    ),
    "int8",
    "int4",
]


def compare(runner: Runner, own: list[Sequence]) -> None:
    """Compute decodes of some sequences as a program and as they come."""
    program = runner.recorded
    assert isinstance(program, Program)
    prompts, *decodes = steps(own)
    assert not program.takes(prompts.chunks, ())
    runner.logits(prompts)
    for plan in decodes:
        assert program.takes(plan.chunks, ())
        ours = runner.logits(plan).clone()
        runner.recorded = None
        theirs = runner.logits(plan).clone()
        runner.recorded = program
        # The same, or nearly, where torch attends in the modules, which sums in another order.
        allowed = 0.05 * theirs.float().abs().max() if multiplies_bfloat16() else 0.0
        assert (ours.float() - theirs.float()).abs().max() <= allowed


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["wide llama", "wide mistral", "wide qwen2", "wide qwen3"])
async def test_a_program_says_what_the_modules_say(name, method, family, running: Running) -> None:
    made = family(name)
    async with running(made, dtype="bfloat16", quantization=method, max_num_seqs=4, threads=2) as engine:
        runner = engine._loop._runner  # the thread is idle: nothing was submitted
        compare(runner, sequences(made, [[], [2], [2], [0, 2]]))


class Blocks(PanelLinear):
    """A linear with the kernel of few rows that processors with instructions for bfloat16 have."""

    def __init__(self, linear: torch.nn.Linear) -> None:
        torch.nn.Module.__init__(self)
        weight = linear.weight.detach()
        self.out_features, self.in_features = weight.shape
        self.weight, self.bias = weight, None if linear.bias is None else linear.bias.detach().clone()
        self._laid = weight.view(-1, 64, weight.shape[1] // 2, 2).transpose(1, 2).contiguous()
        self.few = GemvJob(self._laid, self.bias)

    @property
    def blocks(self) -> torch.Tensor:
        return self._laid

    def takes(self, x: torch.Tensor) -> bool:
        return 0 < x.numel() <= GemvJob.rows * x.shape[-1]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.few.product(x) if self.takes(x) else torch.nn.functional.linear(x, self.weight, self.bias)


@pytest.mark.skipif(multiplies_bfloat16(), reason="every bfloat16 base has these here")
async def test_a_program_on_the_weights_that_onednn_packs(family, running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model.PanelLinear, "of", lambda linear, scratch: Blocks(linear))
    made = family("wide qwen2")
    async with running(made, dtype="bfloat16", max_num_seqs=3, threads=2) as engine:
        runner = engine._loop._runner
        assert all(isinstance(linear.base, Blocks) for linear in runner.model.linears.values())
        compare(runner, sequences(made, [[], [2], [0, 2]]))


async def test_adapters_come_and_go_under_a_program(family, running: Running) -> None:
    made = family("wide qwen2")
    async with running(made, dtype="bfloat16", quantization="int8", max_num_seqs=4) as engine:
        runner = engine._loop._runner
        prompts, first, *_ = steps(sequences(made, [[0], [1]]))
        runner.logits(prompts)
        before = runner.logits(first).clone()
        with taken_out(runner, made.adapters[0]):
            without = runner.logits(first).clone()
        assert torch.equal(runner.logits(first), before)
        assert not torch.equal(without[0], before[0])
        assert torch.equal(without[1], before[1])


async def test_threads_may_become_more(family, running: Running) -> None:
    made = family("wide qwen2")
    async with running(made, dtype="bfloat16", quantization="int8", threads=1) as engine:
        runner = engine._loop._runner
        prompts, first, *_ = steps(sequences(made, [[0], [1]]))
        runner.logits(prompts)
        before = runner.logits(first).clone()
        torch.set_num_threads(3)
        try:
            after = runner.logits(first).clone()
        finally:
            torch.set_num_threads(1)
        torch.testing.assert_close(after, before, rtol=0.02, atol=0.02)


async def test_what_a_program_does_not_take_goes_through_the_modules(family, running: Running) -> None:
    made = family("wide qwen2")
    async with running(made, dtype="bfloat16", quantization="int8", max_num_seqs=200) as engine:
        program = engine._loop._runner.recorded
        own = sequences(made, [[0]])[0]
        last = len(own.tokens) - 1
        one = Chunk(own, last, 1, samples=True)
        assert program.takes((one,) * Panels.rows, ())
        assert not program.takes((one,) * (Panels.rows + 1), ())
        assert not program.takes((one, Chunk(own, last, 1, samples=False)), ())


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("wide qwen2", {"enforce_eager": True}),
        ("wide qwen2", {"kv_cache_dtype": "fp8"}),
        ("wide qwen2", {"dtype": "float32"}),
        ("qwen2", {}),  # heads of 16 values
        ("gemma3", {}),  # other norms
    ],
)
async def test_other_models_and_settings_have_no_program(name, settings: dict[str, Any], family, running) -> None:
    async with running(family(name), **({"dtype": "bfloat16", "quantization": "int8"} | settings)) as engine:
        assert engine._loop._runner.recorded is None


async def test_a_model_that_computes_something_else_between_modules_of_these_names_is_found_out(
    family, running: Running, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(family("wide granite"), dtype="bfloat16", quantization="int8") as engine:
        assert engine._loop._runner.recorded is None
    assert "as a program they are off by" in caplog.text


async def test_a_compiler_that_fails_is_no_reason_not_to_start(
    family, running: Running, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(module: object) -> None:
        raise RuntimeError("no room")

    monkeypatch.setattr(compiled, "deviation", lambda runner, make: fail(make))
    async with running(family("wide qwen2"), dtype="bfloat16", quantization="int8") as engine:
        assert engine._loop._runner.recorded is None
    assert "no room" in caplog.text
