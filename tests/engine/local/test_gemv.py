from __future__ import annotations

import pytest
import torch
from torch import nn

from loradex.engine.local.packed import PackedEmbedding, PackedLinear

pytestmark = pytest.mark.skipif(
    not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="oneDNN has no bfloat16 on this processor"
)


def few(linear: nn.Linear) -> PackedLinear:
    from loradex.engine.local.gemv_job import ROWS, GemvJob

    packed = PackedLinear(linear)
    if packed.blocks is None:
        pytest.skip("this oneDNN lays weights out otherwise")
    packed.few, packed.rows = GemvJob(packed.blocks, packed.bias), ROWS
    return packed


def linear(inputs: int, outputs: int, *, bias: bool = False) -> nn.Linear:
    torch.manual_seed(inputs + outputs)
    return nn.Linear(inputs, outputs, bias=bias, dtype=torch.bfloat16).requires_grad_(False)


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 7, 16])
@pytest.mark.parametrize(("inputs", "outputs"), [(64, 64), (96, 192), (4864, 896)])
@pytest.mark.parametrize("bias", [True, False])
def test_few_rows_are_the_rounded_product(rows: int, inputs: int, outputs: int, bias: bool) -> None:
    plain = linear(inputs, outputs, bias=bias)
    packed = few(plain)
    x = torch.randn(1, rows, inputs, dtype=torch.bfloat16)
    exact = nn.functional.linear(x.double(), plain.weight.double(), plain.bias.double() if bias else None)
    y = packed(x)
    assert y.shape == (1, rows, outputs)
    assert y.dtype == torch.bfloat16
    # Half a step of bfloat16 (8 bits of mantissa), and what float32 sums lose.
    assert ((y.double() - exact).abs() <= exact.abs() * 2**-8 + 1e-5).all()


def test_a_row_does_not_depend_on_its_neighbours() -> None:
    packed = few(linear(896, 640))
    x = torch.randn(packed.rows, 896, dtype=torch.bfloat16)
    together = packed(x)
    for row in range(packed.rows):
        assert torch.equal(packed(x[row : row + 1])[0], together[row])


def test_the_kernel_is_taken_for_few_rows_only() -> None:
    packed = few(linear(64, 64))
    asked: list[int] = []
    product = packed.few.product

    class Counting:
        def product(self, x: torch.Tensor) -> torch.Tensor:
            asked.append(x.shape[0])
            return product(x)

    packed.few = Counting()
    for rows in (0, 1, packed.rows, packed.rows + 1):
        assert packed(torch.zeros(rows, 64, dtype=torch.bfloat16)).shape == (rows, 64)
    assert asked == [1, packed.rows]


@pytest.mark.parametrize("rows", [1, 3, 4, 16])
def test_adapters_of_the_same_rows_are_added_in_the_same_call(rows: int) -> None:
    from loradex.engine.local.batch import Narrow
    from loradex.engine.local.lora import LoraPair, Segment
    from loradex.engine.local.lora_job import LoraJob

    plain = linear(96, 192, bias=True)
    packed = few(plain)
    job = LoraJob(96, 192, 2, torch.bfloat16)
    pairs = [LoraPair(torch.randn(r, 96).bfloat16(), torch.randn(r, 192).bfloat16(), 0.5) for r in (3, 16)]
    for slot, pair in enumerate(pairs):
        job.put(slot, pair)
    segments = [Segment(0, 1, 0), Segment(1, rows, 1)][: 1 if rows == 1 else 2]
    narrow = Narrow(segments)
    if rows > packed.rows:
        pytest.skip("this processor takes fewer rows at once")
    x = torch.randn(1, rows, 96).bfloat16()
    together = packed.few.product(x, lambda inputs, outputs, threads: job.aim(inputs, outputs, narrow, threads))
    apart = packed.few.product(x)
    job.add(x[0], apart[0], narrow)
    torch.testing.assert_close(together, apart, rtol=1e-2, atol=1e-2)
    assert not torch.equal(apart, packed.few.product(x))


def test_a_strided_input_is_read_as_it_is() -> None:
    plain = linear(64, 128)
    x = torch.randn(64, 2, dtype=torch.bfloat16).t()
    torch.testing.assert_close(few(plain)(x), plain(x), atol=2e-2, rtol=2e-2)


@pytest.mark.parametrize("damage", [float("nan"), float("inf")])
def test_what_is_not_a_number_stays_so(damage: float) -> None:
    packed = few(linear(64, 64))
    x = torch.ones(2, 64, dtype=torch.bfloat16)
    x[1, 3] = damage
    y = packed(x)
    assert y[0].isfinite().all()
    assert not y[1].isfinite().any()


def test_shapes_that_do_not_fill_a_block_have_no_kernel() -> None:
    assert PackedLinear(linear(64, 65)).blocks is None
    assert PackedLinear(linear(63, 64)).blocks is None


def test_an_embedding_reads_the_packed_head() -> None:
    head = few(linear(96, 640))
    weight = linear(96, 640).weight
    embedding = PackedEmbedding(head)
    tokens = torch.tensor([[0, 63, 64], [639, 1, 320]])
    assert torch.equal(embedding(tokens), weight[tokens])
    assert embedding(tokens[:, :0]).shape == (2, 0, 96)
