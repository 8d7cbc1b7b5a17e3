"""A cache of 8-bit floats: what it keeps, and that the engine then answers as transformers with keys rounded alike."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import torch
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, eager_mask
from transformers.models.gemma2.modeling_gemma2 import eager_attention_forward

from loradex.core.sampling import Sampling
from loradex.engine.local.kvcache import CacheShape
from loradex.engine.local.kvcache_fp8 import FP8, LARGEST, Fp8Cache

from .test_parity import digest, prompts
from .test_quantized import all_logits
from .tiny import DEVICES, Running, answer

ROUNDED = "eager_on_fp8"
CPU = torch.device("cpu")


def on_rounded(
    module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *rest: Any, **more: Any
) -> Any:
    """Attend as transformers does, to keys and values that went through e4m3."""
    key, value = (each.clamp(-LARGEST, LARGEST).to(FP8).to(each.dtype) for each in (key, value))
    return eager_attention_forward(module, query, key, value, *rest, **more)


AttentionInterface.register(ROUNDED, on_rounded)
AttentionMaskInterface.register(ROUNDED, eager_mask)


def cache(*, key_peak: float = 1.0, dtype: torch.dtype = torch.float32, dim: int = 16) -> Fp8Cache:
    return Fp8Cache({0: CacheShape(2, dim, dim, key_peak, 1.0)}, 8, dtype, CPU)


def kept(own: Fp8Cache, keys: torch.Tensor) -> torch.Tensor:
    """Return what the cache gives back for keys `[rows, heads, dim]`."""
    cells = torch.arange(len(keys)).flip(0)
    own.write(0, cells, keys, keys)
    return own.read(0, cells.unsqueeze(0))[0][0].transpose(0, 1)


def test_values_come_back_with_three_bits_of_mantissa() -> None:
    keys = torch.randn(6, 2, 16, generator=torch.Generator().manual_seed(0)) * 10
    found = kept(cache(), keys)
    assert torch.equal(found, keys.to(FP8).float())
    assert ((found - keys).abs() <= keys.abs() / 16 + 2**-10).all()


def test_large_values_are_cut_off_or_scaled_but_never_nan() -> None:
    keys = torch.full((1, 2, 16), 3000.0)
    assert kept(cache(key_peak=1.0), keys).eq(448.0).all()
    assert kept(cache(key_peak=3000.0), keys).eq(3072.0).all()
    assert kept(cache(key_peak=float("inf")), keys).eq(448.0).all()


def test_a_nan_is_not_hidden() -> None:
    keys = torch.ones(2, 2, 16)
    keys[0, 1, 3] = float("nan")
    assert torch.equal(kept(cache(), keys).isnan(), keys.isnan())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scale", [1.0, 8.0])
@pytest.mark.parametrize("cells", [3, 700])
def test_the_compiled_reader_is_torchs(dtype: torch.dtype, scale: float, cells: int) -> None:
    pytest.importorskip("numba")
    from loradex.engine.local.fp8_job import Fp8Job

    pool = torch.arange(256, dtype=torch.uint8).repeat(3).view(3, 4, 64)
    chosen = torch.randint(3, (2, cells), generator=torch.Generator().manual_seed(0))
    ours = Fp8Job(dtype).decode(pool, chosen, scale)
    plain = cache(dtype=dtype).decode(pool, chosen, scale)
    assert ours.dtype is dtype
    assert torch.equal(ours.isnan(), plain.isnan())
    assert torch.equal(ours.nan_to_num(), plain.nan_to_num())


@DEVICES
@pytest.mark.parametrize("name", ["llama", "mistral", "gemma2"])
async def test_the_engine_answers_as_transformers_on_rounded_keys(name: str, family, running: Running) -> None:
    made = family(name)
    oracle = made.oracle(attention=ROUNDED)
    cases = [(tokens, [None, 0, 1, 2][i % 4]) for i, tokens in enumerate(prompts(8))]
    sampling = Sampling(temperature=0.0, max_tokens=8, ignore_eos=True)
    async with running(made, max_batched_tokens=24, kv_cache_dtype="fp8") as engine:
        ours = all_logits(engine, made, [tokens for tokens, _ in cases[:4]])
        answers = await asyncio.gather(
            *(answer(engine, str(i), tokens, digest(made, a), sampling) for i, (tokens, a) in enumerate(cases))
        )
    theirs = torch.stack([oracle.logits(tokens, adapter)[-1] for tokens, adapter in cases[:4]])
    plain = torch.stack([made.oracle().logits(tokens, adapter)[-1] for tokens, adapter in cases[:4]])
    assert (theirs - plain).abs().amax(dim=1).min() > 1e-2  # rounding is seen, so that the comparison below is one
    # A key in the middle between two codes may fall to either side, for both compute it with errors of 1e-7.
    off = (ours - theirs).abs().amax(dim=1)
    assert off.sort().values[-2] < 1e-4
    assert off.max() < 0.1 * theirs.abs().max()
    same = [said == oracle.greedy(tokens, said, a) for (tokens, a), said in zip(cases, answers, strict=True)]
    assert sum(same) >= len(same) - 1


async def test_the_same_memory_holds_twice_as_many_tokens(family, running: Running) -> None:
    made = family("llama")
    totals = {}
    for kind in ("auto", "fp8"):
        async with running(made, dtype="bfloat16", kv_cache_dtype=kind) as engine:
            totals[kind] = engine.stats().blocks_total
            assert engine.info.kv_cache_dtype == kind
    assert totals["fp8"] == 2 * totals["auto"]
