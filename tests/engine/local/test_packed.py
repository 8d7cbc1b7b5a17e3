from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from loradex.adapters.read import read_adapter
from loradex.engine.local.dense import dense
from loradex.engine.local.packed import PackedEmbedding, PackedLinear, can_pack, multiplies_bfloat16
from loradex.engine.local.panel_linear import PanelLinear
from loradex.engine.local.panels import Scratch

from . import tiny
from .tiny import GREEDY, Family, Running, answer

PROMPT = b"one base, many adapters, one batch"

packs = pytest.mark.skipif(not multiplies_bfloat16(), reason="oneDNN has no bfloat16 on this processor")


def in_panels(plain: nn.Linear) -> PanelLinear:
    return PanelLinear.of(plain, Scratch())


Kind = Callable[[nn.Linear], PackedLinear | PanelLinear]
KINDS = [pytest.param(PackedLinear, marks=packs), in_panels]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", [1, 3, 64])
@pytest.mark.parametrize("bias", [True, False])
def test_a_packed_linear_says_what_the_plain_one_says(rows: int, bias: bool, kind: Kind) -> None:
    torch.manual_seed(0)
    plain = nn.Linear(96, 160, bias=bias, dtype=torch.bfloat16).requires_grad_(False)
    x = torch.randn(1, rows, 96, dtype=torch.bfloat16)
    packed = kind(plain)
    assert packed.weight.shape == plain.weight.shape
    torch.testing.assert_close(packed(x), plain(x), atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", [192, 160])  # as oneDNN lays them out in blocks, and otherwise
def test_the_weights_are_given_back_as_they_were(rows: int, kind: Kind) -> None:
    plain = nn.Linear(96, rows, dtype=torch.bfloat16).requires_grad_(False)
    packed = kind(plain)
    if kind is PackedLinear:
        assert (packed.blocks is None) is bool(rows % 64)
    for begin, end in ((0, 64), (5, 131), (rows - 1, rows)):
        assert torch.equal(packed.dense(begin, end), plain.weight[begin:end])
    assert dense(packed).equals(plain.weight, lambda: None)
    assert not dense(packed).equals(plain.weight + 1, lambda: None)


def test_an_embedding_reads_the_head_in_panels() -> None:
    plain = nn.Linear(96, 650, dtype=torch.bfloat16).requires_grad_(False)
    embedding = PackedEmbedding(in_panels(plain))
    tokens = torch.tensor([[0, 15, 16], [649, 63, 320]])
    assert torch.equal(embedding(tokens), plain.weight[tokens])
    assert embedding(tokens[:, :0]).shape == (2, 0, 96)


def test_only_bfloat16_is_packed() -> None:
    assert not can_pack(nn.Linear(8, 8))
    assert not can_pack(nn.LayerNorm(8))


@pytest.mark.parametrize("name", ["qwen2", "phi3"])
async def test_adapters_on_packed_linears(name: str, tmp_path: Path, running: Running) -> None:
    base = tiny.save_base(name, tmp_path / "base", dtype=torch.bfloat16)
    made = Family(name, base, tuple(read_adapter(path) for path in tiny.save_adapters(name, base, tmp_path)))
    oracle = made.oracle()
    async with running(made) as engine:
        modules = engine._model.module.modules()
        assert any(isinstance(module, PackedLinear if multiplies_bfloat16() else PanelLinear) for module in modules)
        for index, adapter in [(None, None), *enumerate(made.adapters)]:
            said = await answer(engine, "x", list(PROMPT), adapter and adapter.digest, GREEDY)
            logits = oracle.logits([*PROMPT, *said[:-1]], index)[len(PROMPT) - 1 :]
            # The oracle computes in float32: what bfloat16 picks must be as good as the best, but for rounding.
            lost = logits.amax(dim=-1) - logits.gather(1, torch.tensor(said).unsqueeze(1)).squeeze(1)
            assert lost.max() < 0.05 * logits.abs().max()
