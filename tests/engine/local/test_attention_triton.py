"""The attention kernel of graphics cards says what plain attention says: in Triton's interpreter, and on a card."""

from __future__ import annotations

import pytest
import torch

from loradex.engine.local import compiled
from loradex.engine.local.attention_triton import attend_paged, deviation
from loradex.engine.local.kvcache import CacheShape, KVCache
from loradex.engine.local.kvcache_fp8 import Fp8Cache
from loradex.engine.local.norm import quickened
from loradex.engine.local.norm_triton import CardNorm

from .test_lora import decodes
from .tiny import DEVICES, Running

BLOCK = 4
LENGTHS = (1, 70, 133)
"""One token; more than are read at a time; so many that parts of the past are empty, and none is full."""

ROUNDING = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


def plain(query, keys, values, scaling, window, softcap) -> torch.Tensor:
    """Attend one row (`[query heads, dim]`) to all of `keys` and `values` (`[tokens, heads, dim]`), in float32."""
    group = query.shape[0] // keys.shape[1]
    keys, values = (each.float().transpose(0, 1).repeat_interleave(group, 0) for each in (keys, values))
    scores = (query.float()[:, None] @ keys.transpose(1, 2)) * scaling
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if window is not None:
        scores[..., : max(0, scores.shape[-1] - window)] = -torch.inf
    return (scores.softmax(-1) @ values)[:, 0]


@DEVICES
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("heads", "group", "key_dim", "value_dim", "scaling", "window", "softcap"),
    [(2, 7, 64, 64, None, None, None), (1, 4, 24, 40, 0.3, 5, None), (2, 1, 16, 16, None, 80, 30.0)],
)
def test_each_sequence_sees_its_own_past(
    heads, group, key_dim, value_dim, scaling, window, softcap, dtype, device
) -> None:
    torch.manual_seed(0)
    cells, width = 600, 40
    keys = torch.randn(cells, heads, key_dim).to(device, dtype)
    values = torch.randn(cells, heads, value_dim).to(device, dtype)
    tables = torch.randperm(cells // BLOCK)[: len(LENGTHS) * width].view(-1, width).int().to(device)
    lengths = torch.tensor(LENGTHS, dtype=torch.int32, device=device)
    query = torch.randn(heads * group, len(LENGTHS), key_dim).to(device, dtype).transpose(0, 1)
    owned = torch.zeros(cells, dtype=torch.bool)
    for row, length in enumerate(LENGTHS):
        owned[(tables[row].cpu()[:, None] * BLOCK + torch.arange(BLOCK)).flatten()[:length]] = True
    keys[~owned.to(device)] = values[~owned.to(device)] = torch.nan  # what is nobody's must not be looked at
    options = {"scaling": scaling, "window": window, "softcap": softcap}
    ours = attend_paged(query, keys, values, tables, lengths, BLOCK, **options)
    assert ours.is_contiguous()
    assert ours.dtype is dtype
    for row, length in enumerate(LENGTHS):
        own = (tables[row].long()[:, None] * BLOCK + torch.arange(BLOCK, device=device)).flatten()[:length]
        theirs = plain(query[row], keys[own], values[own], scaling or key_dim**-0.5, window, softcap)
        assert (ours[row].float() - theirs).abs().max() <= ROUNDING[dtype] * theirs.abs().max()


@DEVICES
@pytest.mark.parametrize("kind", [KVCache, Fp8Cache])
def test_the_check_at_start_sees_no_more_than_rounding(kind, device) -> None:
    torch.manual_seed(1)
    cache = kind({3: CacheShape(2, 16, 32, key_peak=100.0)}, 256, torch.bfloat16, device)
    assert 0 < deviation(cache, 3, 6, torch.bfloat16, BLOCK) <= ROUNDING[torch.bfloat16]


@DEVICES
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_norm_rounds_where_that_of_transformers_does(dtype, device, family) -> None:
    from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm

    torch.manual_seed(2)
    norm = Qwen2RMSNorm(96).to(device, dtype)
    norm.weight.data.normal_()
    quick = quickened(norm, CardNorm)
    x = torch.randn(1, 5, 96).to(device, dtype)
    torch.testing.assert_close(quick(x), norm(x), rtol=2 * torch.finfo(dtype).eps, atol=1e-6)
    assert quick(x[:, :0]).shape == (1, 0, 96)


@DEVICES
async def test_an_engine_attends_decodes_by_the_kernel(device, family, running: Running) -> None:
    made = family("gemma2")
    async with running(made) as engine:
        runner = engine._loop._runner  # the thread is idle: nothing was submitted
        runner.recorded = None
        compiled.compile_attention(runner.model, runner.block_size)
        prefill, decode = decodes(made, [None, 0])
        runner.logits(prefill)
        kernel, runner.model.attention.kernel = runner.model.attention.kernel, None
        assert kernel is attend_paged
        theirs = runner.logits(decode)
        runner.model.attention.kernel = kernel
        torch.testing.assert_close(runner.logits(decode), theirs, atol=1e-4, rtol=0)
