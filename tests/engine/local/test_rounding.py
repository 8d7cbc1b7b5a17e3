from __future__ import annotations

import pytest
import torch

from loradex.engine.local import rounding
from loradex.engine.local.rounding import GROUP, round_weight


def weights(rows: int = 48, columns: int = 96) -> torch.Tensor:
    made = torch.randn(rows, columns, generator=torch.Generator().manual_seed(5))
    made[3] *= 100  # an outlier row must not spoil the others
    made[5] = 0
    return made


@pytest.mark.parametrize(("method", "levels", "group"), [("int8", 127, 96), ("int4", 7, GROUP)])
def test_no_weight_is_off_by_more_than_half_a_step(method: str, levels: float, group: int) -> None:
    weight = weights()
    rounded = round_weight(weight, method)
    assert rounded.scales.shape == (48, 96 // group)
    largest = weight.view(48, -1, group).abs().amax(dim=2).repeat_interleave(group, dim=1)
    # In int4 a value opposite to the farthest one may be a whole step off: there are 8 codes below zero, 7 above.
    allowed = largest / levels * (0.5 if method == "int8" else 1.0)
    assert ((rounded.values(torch.float32) - weight).abs() <= allowed + 1e-7).all()
    assert rounded.values(torch.float32)[5].eq(0).all()


def test_int4_uses_every_code_and_is_exact_in_bfloat16() -> None:
    rounded = round_weight(torch.randn(64, 256, generator=torch.Generator().manual_seed(1)), "int4")
    assert set(rounded.codes.unique().tolist()) == set(range(-8, 8))
    exact = rounded.values(torch.float32)
    assert torch.equal(rounded.values(torch.bfloat16).float(), exact)
    assert torch.equal(round_weight(exact, "int4").values(torch.float32), exact)


def test_an_int4_weight_that_has_no_whole_groups_becomes_int8() -> None:
    rounded = round_weight(torch.randn(8, GROUP + 1), "int4")
    assert (rounded.bits, rounded.scales.shape) == (8, (8, 1))


def test_fp8_keeps_three_bits_of_every_size() -> None:
    weight = weights()
    values = round_weight(weight, "fp8").values(torch.float32)
    normal = weight.abs() > weight.abs().amax(dim=1, keepdim=True) / 2**14
    assert ((values - weight).abs()[normal] <= weight.abs()[normal] / 15).all()


def test_large_weights_are_rounded_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = weights()
    whole = round_weight(weight, "int4")
    monkeypatch.setattr(rounding, "_BLOCK", 5 * 96)
    parts = round_weight(weight, "int4")
    assert torch.equal(whole.codes, parts.codes)
    assert torch.equal(whole.scales, parts.scales)
