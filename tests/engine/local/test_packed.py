from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from loradex.adapters.read import read_adapter
from loradex.engine.local.dense import dense
from loradex.engine.local.packed import PackedLinear, can_pack

from . import tiny
from .tiny import GREEDY, Family, Running, answer

PROMPT = b"one base, many adapters, one batch"

packs = pytest.mark.skipif(
    not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="oneDNN has no bfloat16 on this processor"
)


@packs
@pytest.mark.parametrize("rows", [1, 3, 64])
@pytest.mark.parametrize("bias", [True, False])
def test_a_packed_linear_says_what_the_plain_one_says(rows: int, bias: bool) -> None:
    torch.manual_seed(0)
    plain = nn.Linear(96, 160, bias=bias, dtype=torch.bfloat16).requires_grad_(False)
    x = torch.randn(1, rows, 96, dtype=torch.bfloat16)
    packed = PackedLinear(plain)
    assert packed.weight.shape == plain.weight.shape
    torch.testing.assert_close(packed(x), plain(x), atol=1e-2, rtol=1e-2)


@packs
@pytest.mark.parametrize("rows", [192, 160])  # as oneDNN lays them out in blocks, and otherwise
def test_the_weights_are_given_back_as_they_were(rows: int) -> None:
    plain = nn.Linear(96, rows, dtype=torch.bfloat16).requires_grad_(False)
    packed = PackedLinear(plain)
    assert (packed.blocks is None) is bool(rows % 64)
    for begin, end in ((0, 64), (5, 131), (rows - 1, rows)):
        assert torch.equal(packed.dense(begin, end), plain.weight[begin:end])
    assert dense(packed).equals(plain.weight, lambda: None)
    assert not dense(packed).equals(plain.weight + 1, lambda: None)


def test_only_bfloat16_is_packed() -> None:
    assert not can_pack(nn.Linear(8, 8))
    assert not can_pack(nn.LayerNorm(8))


@packs
@pytest.mark.parametrize("name", ["qwen2", "phi3"])
async def test_adapters_on_packed_linears(name: str, tmp_path: Path, running: Running) -> None:
    base = tiny.save_base(name, tmp_path / "base", dtype=torch.bfloat16)
    made = Family(name, base, tuple(read_adapter(path) for path in tiny.save_adapters(name, base, tmp_path)))
    oracle = made.oracle()
    async with running(made) as engine:
        modules = engine._model.module.modules()
        assert any(isinstance(module, PackedLinear) for module in modules)
        for index, adapter in [(None, None), *enumerate(made.adapters)]:
            said = await answer(engine, "x", list(PROMPT), adapter and adapter.digest, GREEDY)
            logits = oracle.logits([*PROMPT, *said[:-1]], index)[len(PROMPT) - 1 :]
            # The oracle computes in float32: what bfloat16 picks must be as good as the best, but for rounding.
            lost = logits.amax(dim=-1) - logits.gather(1, torch.tensor(said).unsqueeze(1)).squeeze(1)
            assert lost.max() < 0.05 * logits.abs().max()
