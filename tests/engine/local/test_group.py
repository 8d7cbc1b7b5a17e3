"""Linears with one input: found by watching the model, computed at once, and each output handed out once."""

from __future__ import annotations

import weakref
from collections.abc import Sequence

import pytest
import torch
from torch import nn

from loradex.engine.config import EngineConfig
from loradex.engine.local import model
from loradex.engine.local.batch import Step
from loradex.engine.local.group import Group, neighbours
from loradex.engine.local.linear import LoraLinear


class Counted(nn.Linear):
    """Counts its calls."""

    calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return super().forward(x)


class Unused:
    """The kernel, which has nothing to do where no adapter is."""

    def add(self, x: torch.Tensor, ys: Sequence[torch.Tensor], taken: object) -> None:
        raise AssertionError("there is no batch")


@pytest.fixture
def linears() -> list[LoraLinear]:
    step = Step()
    made = [LoraLinear(Counted(4, width), 1, step) for width in (3, 4, 5)]
    group = Group(made, Unused(), step)
    for linear in made:
        linear.group = group
    return made


def calls(linears: list[LoraLinear]) -> list[int]:
    return [linear.base.calls for linear in linears]


@torch.inference_mode()
def test_the_first_call_computes_all(linears: list[LoraLinear]) -> None:
    x = torch.randn(1, 2, 4)
    for order in ((0, 1, 2), (2, 0, 1)):
        found = {number: linears[number](x) for number in order}
        for number, linear in enumerate(linears):
            assert torch.equal(found[number], nn.functional.linear(x, linear.weight, linear.bias))
    assert calls(linears) == [2, 2, 2]


@torch.inference_mode()
def test_an_output_is_handed_out_once_and_for_its_own_input(linears: list[LoraLinear]) -> None:
    x, other = torch.randn(2, 4), torch.randn(2, 4)
    first = linears[0](x)
    assert linears[0](x) is not first
    assert calls(linears) == [2, 2, 2]
    assert torch.equal(linears[1](other), nn.functional.linear(other, linears[1].weight, linears[1].bias))
    assert torch.equal(linears[1](x.clone()), nn.functional.linear(x, linears[1].weight, linears[1].bias))
    assert calls(linears) == [4, 4, 4]


@torch.inference_mode()
def test_nothing_is_kept_when_all_are_handed_out(linears: list[LoraLinear]) -> None:
    x = torch.randn(2, 4)
    kept = weakref.ref(x)
    outputs = [weakref.ref(linear(x)) for linear in linears]
    del x
    assert kept() is None
    assert [output() for output in outputs] == [None] * 3


@torch.inference_mode()
def test_neighbours_are_called_one_after_another_with_one_tensor() -> None:
    one, two, three, four = made = [LoraLinear(nn.Linear(4, 4), 1, Step()) for _ in range(4)]
    x = torch.randn(2, 4)
    with neighbours(made) as found:
        one(x), two(x), three(x.clone()), four(x)
    assert found == [[one, two], [three], [four]]
    one(x)
    assert len(found) == 3


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("llama", [["q_proj", "k_proj", "v_proj"], ["o_proj"], ["gate_proj", "up_proj"], ["down_proj"]]),
        ("phi3", [["qkv_proj"], ["o_proj"], ["gate_up_proj"], ["down_proj"]]),
        ("qwen3_moe", [["q_proj", "k_proj", "v_proj"], ["o_proj"]]),
    ],
)
def test_the_groups_of_a_model(name: str, layer: list[list[str]], family) -> None:
    folder = family(name).base
    base = model.load(EngineConfig(model=str(folder)), folder, torch.device("cpu"))
    assert [[path.rpartition(".")[2] for path in group] for group in base.groups] == layer * 2
    assert sorted(path for group in base.groups for path in group) == sorted(base.linears)
