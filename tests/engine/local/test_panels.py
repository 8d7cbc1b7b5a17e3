from __future__ import annotations

import pytest
import torch

pytest.importorskip("numba")

from loradex.engine.local import panels
from loradex.engine.local.batch import Narrow
from loradex.engine.local.laid import Laid
from loradex.engine.local.lora import LoraPair, Segment
from loradex.engine.local.lora_job import LoraJob
from loradex.engine.local.panels import Panels, Scratch
from loradex.engine.local.rounding import round_weight

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-2}
"""As a share of the largest output: for sums of 160 products, and for bfloat16's eight bits."""


def made(
    method: str, dtype: torch.dtype, out: int = 130, width: int = 160, *, bias: bool = True
) -> tuple[Panels, torch.Tensor, torch.Tensor]:
    """Return panels, the weights that they mean, and the bias."""
    torch.manual_seed(3)
    weight = torch.randn(out, width).bfloat16()
    rounded = weight if method == "none" else round_weight(weight, method)
    values = weight.float() if method == "none" else rounded.values(torch.float32)
    added = torch.randn(out).to(dtype) if bias else torch.zeros(out, dtype=dtype)
    own = Panels(Laid.of(rounded), added if bias else None, dtype, Scratch())
    return own, values, added.float()


def compare(panels: Panels, weight: torch.Tensor, bias: torch.Tensor, x: torch.Tensor) -> None:
    y = panels.product(x)
    assert (y.dtype, y.shape, y.is_contiguous()) == (x.dtype, (*x.shape[:-1], len(weight)), True)
    exact = x.double() @ weight.double().t() + bias.double()
    assert (y.double() - exact).abs().max() <= TOLERANCE[x.dtype] * exact.abs().max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("method", ["none", "int8", "int4"])
@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 6, 7, 16, 65])
def test_the_product_is_that_of_the_values(rows: int, method: str, dtype: torch.dtype) -> None:
    x = torch.randn(1, rows, 160).to(dtype)
    compare(*made(method, dtype), x)
    compare(*made(method, dtype, out=64, bias=False), x)


@pytest.mark.parametrize("method", ["int8", "int4"])
@pytest.mark.parametrize("dense", [torch.float32, torch.bfloat16])
def test_many_rows_in_parts_and_in_either_dense_dtype(
    method: str, dense: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(panels, "dense_dtype", lambda dtype: dense)
    monkeypatch.setattr(panels, "SCRATCH", 64 * 160)
    monkeypatch.setattr(panels, "_NARROW", {dense: 0})
    monkeypatch.setattr(panels, "_ALL", 0)
    compare(*made(method, torch.bfloat16), torch.randn(5, 160).bfloat16())


@pytest.mark.parametrize("method", ["int8", "int4"])
def test_the_values_are_given_back(method: str) -> None:
    own, weight, _ = made(method, torch.bfloat16)
    for begin, end in ((0, 130), (5, 70), (129, 130)):
        torch.testing.assert_close(own.laid.rows(begin, end), weight[begin:end], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("method", ["none", "int8", "int4"])
@pytest.mark.parametrize("rows", [6, 7, 50, 103])
def test_blocks_of_rows_and_inputs_make_up_the_product(rows: int, method: str, dtype: torch.dtype) -> None:
    compare(*made(method, dtype, width=992), torch.randn(rows, 992).to(dtype))


@pytest.mark.parametrize("method", ["none", "int8", "int4"])
def test_a_row_is_the_same_alone_and_among_others(method: str) -> None:
    own, _, _ = made(method, torch.float32, width=992)
    x = torch.randn(60, 992)
    alone, together = own.product(x[5:6]), own.product(x)
    assert torch.equal(alone, together[5:6])


@pytest.mark.parametrize("rows", [1, 2])
def test_few_rows_of_int4_lose_nothing_that_bfloat16_holds(rows: int) -> None:
    own, weight, bias = made("int4", torch.bfloat16, width=992)
    x = torch.randn(rows, 992).bfloat16()
    x[0, 40:80] *= 1000  # a scale of their own
    x[:, 96:160] = 0
    exact = x.double() @ weight.double().t() + bias.double()
    few = own.product(x).double()
    many = own.product(torch.cat([x, x, x]))[:rows].double()
    rounded = exact.bfloat16().double()
    # Where the exact sum lies near the middle of two values, either may come out.
    assert ((few - rounded).abs() <= 2**-7 * exact.abs() + 1e-4 * exact.abs().max()).all()
    assert (few == many).double().mean() > 0.95


@pytest.mark.parametrize("rows", [1, 2, 3])
@pytest.mark.parametrize("size", [0.0, 1e-38, 1e-34, 1e-20, 1e30])
def test_inputs_of_any_size(size: float, rows: int) -> None:
    own, weight, _ = made("int4", torch.bfloat16, bias=False)
    x = torch.full((rows, 160), size).bfloat16()
    exact = x.double() @ weight.double().t()
    assert ((own.product(x).double() - exact).abs() <= 1e-2 * exact.abs().max() + 1e-28).all()


def test_inputs_of_any_number_and_rows_that_are_not_contiguous() -> None:
    own, weight, bias = made("int8", torch.float32, out=1, width=33)
    compare(own, weight, bias, torch.randn(33, 3).t())


@pytest.mark.parametrize("rows", [2, 3])
@pytest.mark.parametrize("what", ["nan", "inf", "-inf"])
def test_what_is_not_finite_stays_so_and_spoils_no_other_row(what: str, rows: int) -> None:
    own, _, _ = made("int4", torch.bfloat16)
    x = torch.ones(rows, 160, dtype=torch.bfloat16)
    x[1, 7] = float(what)
    y = own.product(x)
    assert not y[1].isfinite().any()
    assert y[0].isfinite().all()
    assert y[2:].isfinite().all()


@pytest.mark.parametrize(("method", "share"), [("int8", 0.53), ("int4", 0.30)])
def test_weights_are_kept_once(method: str, share: float) -> None:
    own, weight, _ = made(method, torch.bfloat16, out=256, width=512)
    assert own.laid.nbytes < share * 2 * weight.numel()


@pytest.mark.parametrize("method", ["none", "int8", "int4"])
@pytest.mark.parametrize("rows", [1, 4, 16])
def test_adapters_of_the_same_rows_are_added_in_the_same_call(rows: int, method: str) -> None:
    own, _, _ = made(method, torch.bfloat16, out=192, width=96)
    job = LoraJob(96, 192, 2, torch.bfloat16)
    pairs = [LoraPair(torch.randn(r, 96).bfloat16(), torch.randn(r, 192).bfloat16(), 0.5) for r in (3, 16)]
    for slot, pair in enumerate(pairs):
        job.put(slot, pair)
    narrow = Narrow([Segment(0, 1, 0), Segment(1, rows, 1)][: 1 if rows == 1 else 2])
    x = torch.randn(1, rows, 96).bfloat16()
    assert own.takes(x)
    together = own.product(x, lambda inputs, outputs, threads: job.aim(inputs, outputs, narrow, threads))
    apart = own.product(x)
    job.add(x[0], apart[0], narrow)
    torch.testing.assert_close(together, apart, rtol=1e-2, atol=1e-2)
    assert not torch.equal(apart, own.product(x))


def test_outputs_that_do_not_fill_a_panel_are_no_place_for_a_lora_job() -> None:
    own, _, _ = made("none", torch.bfloat16, out=130)
    assert not own.takes(torch.zeros(1, 160, dtype=torch.bfloat16))
