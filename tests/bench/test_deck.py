from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from loradex.adapters.base_model import read_model_info
from loradex.adapters.check import check
from loradex.adapters.read import read_adapter
from loradex.bench.checkpoint import random_bf16
from loradex.bench.deck import base_folder, save_adapters, save_base
from loradex.bench.shape import CLASSES, SHAPES

TINY = SHAPES["tiny"]


def test_random_weights_are_finite_and_of_both_signs() -> None:
    bits = random_bf16(10_000, np.random.default_rng(0))
    values = torch.from_numpy(bits).view(torch.bfloat16).float()
    assert float(values.abs().min()) >= 2**-6
    assert float(values.abs().max()) < 2**-5
    assert abs(float(values.mean())) < 1e-3


def test_transformers_reads_the_model_and_its_tokenizer(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base", TINY)
    model, report = AutoModelForCausalLM.from_pretrained(base, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert model.dtype == torch.bfloat16
    assert bool(torch.isfinite(model(torch.tensor([[1, 2, 3]])).logits).all())
    tokenizer = AutoTokenizer.from_pretrained(base)
    ids = tokenizer("Grüß dich, wörld!")["input_ids"]
    assert tokenizer.decode(ids) == "Grüß dich, wörld!"
    assert tokenizer.decode([TINY.vocabulary - 1]).strip()
    assert tokenizer.apply_chat_template([{"role": "user", "content": "a"}], tokenize=False).startswith("<|im_start|>")
    info = read_model_info(base)
    assert info.linears == TINY.linears()


def test_adapters_fit_and_are_made_once(tmp_path: Path) -> None:
    info = read_model_info(save_base(tmp_path / "base", TINY))
    told: list[float] = []
    made = save_adapters(tmp_path, TINY, CLASSES["a-mix"], 5, lambda _, share: told.append(share))
    adapters = [read_adapter(folder) for folder in made]
    assert [adapter.rank for adapter in adapters] == [8, 16, 32, 64, 8]
    assert len({adapter.digest for adapter in adapters}) == 5
    assert {len(adapter.layers) for adapter in adapters} == {7 * TINY.layers}
    assert check(adapters[3], info, 64).ok
    before = made[0].stat().st_mtime_ns
    again = save_adapters(tmp_path, TINY, CLASSES["a-mix"], 6, lambda _, share: told.append(share))
    assert (again[:5], made[0].stat().st_mtime_ns) == (made, before)
    assert len(told) == 6
    assert base_folder(tmp_path) == tmp_path / "base"
    assert base_folder(tmp_path / "base") == tmp_path / "base"
