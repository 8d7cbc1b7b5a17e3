from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from loradex.engine.local.norm import ROWS, QuickNorm, quickened


def norm(width: int, dtype: torch.dtype, epsilon: float = 1e-6) -> LlamaRMSNorm:
    made = LlamaRMSNorm(width, epsilon).to(dtype).requires_grad_(False)
    made.weight.copy_(torch.randn(width, generator=torch.Generator().manual_seed(width)))
    return made


def quick(theirs: LlamaRMSNorm) -> QuickNorm:
    return QuickNorm(theirs, theirs.weight, theirs.variance_epsilon)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("shape", [(1, 1, 64), (1, 5, 896), (3, 130), (1, ROWS + 1, 32)])
@pytest.mark.parametrize("epsilon", [1e-6, 0.5])
def test_it_computes_what_transformers_computes(dtype: torch.dtype, shape: tuple[int, ...], epsilon: float) -> None:
    theirs = norm(shape[-1], dtype, epsilon)
    x = 3 * torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    ours = quick(theirs)(x)
    assert ours.shape == x.shape
    assert ours.dtype == dtype
    # One step of the storage type, where the order of a float32 sum decides how it is rounded.
    torch.testing.assert_close(ours, theirs(x), rtol=2 * torch.finfo(dtype).eps, atol=1e-6)


def test_a_strided_input_is_read_as_it_is() -> None:
    theirs = norm(64, torch.float32)
    x = torch.randn(64, 3).t()
    torch.testing.assert_close(quick(theirs)(x), theirs(x))


def test_what_is_not_a_number_stays_so_and_spoils_no_other_row() -> None:
    x = torch.ones(2, 64, dtype=torch.bfloat16)
    x[1, 3] = float("nan")
    y = quick(norm(64, torch.bfloat16))(x)
    assert y[0].isfinite().all()
    assert y[1].isnan().any()


def test_norms_of_another_kind_are_left_alone() -> None:
    class Shifted(LlamaRMSNorm):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) + 1e-2

    assert quickened(norm(64, torch.bfloat16)) is not None
    assert quickened(norm(65, torch.bfloat16)) is None
    assert quickened(norm(64, torch.float16)) is None
    assert quickened(Shifted(64, 1e-6).requires_grad_(False)) is None
    assert quickened(GemmaRMSNorm(64).requires_grad_(False)) is None
    assert quickened(nn.LayerNorm(64)) is None
