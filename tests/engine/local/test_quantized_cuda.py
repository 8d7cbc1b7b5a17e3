"""Torch's kernels for NVIDIA cards. Without one: fp8 on the CPU, the shapes of int4."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional

from loradex.engine.local.quantized_cuda import cuda_product
from loradex.engine.local.rounding import Rounded, round_weight

from .tiny import DEVICES


@DEVICES
@pytest.mark.parametrize("bias", [True, False])
def test_fp8_rounds_inputs_by_the_row(bias: bool, device: torch.device) -> None:
    if device.type == "cuda" and torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("this card has no fp8")
    torch.manual_seed(0)
    rounded = round_weight(torch.randn(32, 64).to(device), "fp8")
    added = torch.randn(32).to(device, torch.bfloat16) if bias else None
    x = torch.randn(1, 5, 64).to(device, torch.bfloat16)
    x[0, 1] *= 1000
    x[0, 2] = 0
    found = cuda_product(rounded, added)
    assert found is not None
    y = found[0](x)[0].float()
    exact = x[0].float() @ rounded.values(torch.float32).t() + (0 if added is None else added.float())
    assert y.shape == (5, 32)
    # An input is off by a sixteenth at most; errors of 64 of them mostly cancel.
    assert ((y - exact).abs().amax(dim=1) <= 0.08 * exact.abs().amax(dim=1) + 1e-3).all()


@pytest.mark.gpu
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("device", ["cuda"], indirect=True)
def test_int4_multiplies_with_the_values_of_its_codes(bias: bool, device: torch.device) -> None:
    torch.manual_seed(0)
    rounded = round_weight(torch.randn(64, 256).to(device), "int4")
    added = torch.randn(64).to(device, torch.bfloat16) if bias else None
    x = torch.randn(1, 5, 256).to(device, torch.bfloat16)
    found = cuda_product(rounded, added)
    assert found is not None
    exact = functional.linear(x.float(), rounded.values(torch.float32), None if added is None else added.float())
    torch.testing.assert_close(found[0](x).float(), exact, atol=0.2, rtol=2**-7)


def test_int4_gives_the_kernel_the_shapes_that_it_asks_for() -> None:
    with FakeTensorMode():
        found = cuda_product(Rounded(torch.zeros(64, 256, dtype=torch.int8), torch.ones(64, 8), bits=4), None)
        assert found is not None
        product, size = found
        assert product(torch.zeros(1, 3, 256, dtype=torch.bfloat16)).shape == (1, 3, 64)
    assert size == 64 * 256 // 2 + 64 * 8 * 4


@pytest.mark.parametrize(("method", "out", "width"), [("fp8", 24, 64), ("int4", 64, 96), ("int8", 64, 128)])
def test_shapes_without_a_kernel_are_multiplied_densely(method: str, out: int, width: int) -> None:
    assert cuda_product(round_weight(torch.randn(out, width), method), None) is None
