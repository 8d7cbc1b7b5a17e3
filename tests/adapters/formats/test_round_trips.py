"""PEFT -> another format -> PEFT: the same logits, and where nothing has to be rounded the same bits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from loradex.adapters.check import check_folder
from loradex.adapters.formats.convert import convert
from loradex.adapters.formats.detect import Format
from loradex.errors import AdapterInvalid
from tests.adapters.formats.oracle import Oracle

pytestmark = pytest.mark.filterwarnings("ignore")
GetOracle = Callable[[str], Oracle]

OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {"lora_alpha": 8},
    "rslora": {"use_rslora": True, "lora_alpha": 6},
    "alphas": {"alpha_pattern": {"q_proj": 6, "down_proj": 2}, "lora_alpha": 4},
    "ranks": {"rank_pattern": {"v_proj": 6, "up_proj": 2}, "lora_alpha": 4},
    "some": {"target_modules": ["q_proj", "v_proj"], "layers_to_transform": [1]},
}


def round_trip(one: Oracle, folder: Path, form: Format, tmp_path: Path) -> Path:
    there = convert(folder, form, tmp_path / "there", one.info)
    assert there.source == "peft"
    back = convert(tmp_path / "there", "peft", tmp_path / "back", one.info)
    assert (back.source, back.modules, back.parameters) == (form, there.modules, there.parameters)
    report = check_folder(tmp_path / "back", one.info, 16)
    assert report.problems == ()
    return tmp_path / "back"


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("family", ["llama", "qwen2"])
@pytest.mark.parametrize("form", ["edge", "gguf", "nemo"])
def test_the_logits_are_the_same(oracle: GetOracle, tmp_path: Path, form: Format, family: str, options: str) -> None:
    one = oracle(family)
    folder = one.save(tmp_path / "peft", **OPTIONS[options])
    if (form, options) == ("nemo", "ranks"):
        with pytest.raises(AdapterInvalid, match="one rank for all modules"):
            convert(folder, form, tmp_path / "there", one.info)
        return
    back = round_trip(one, folder, form, tmp_path)
    # Edge-LLM has float16 only; the others keep float32.
    tolerance = 5e-3 if form == "edge" else 1e-5
    before, after = one.logits(folder), one.logits(back)
    assert (before - one.logits(None)).abs().max() > 20 * tolerance
    torch.testing.assert_close(after, before, rtol=0, atol=tolerance)


@pytest.mark.parametrize("family", ["mistral", "qwen3", "gemma2", "phi3"])
def test_other_families_go_through_gguf(oracle: GetOracle, tmp_path: Path, family: str) -> None:
    one = oracle(family)
    folder = one.save(tmp_path / "peft")
    back = round_trip(one, folder, "gguf", tmp_path)
    assert torch.equal(one.logits(back), one.logits(folder))


@pytest.mark.parametrize(
    ("form", "dtype", "factor"),
    [
        ("gguf", torch.float32, 1),
        ("gguf", torch.bfloat16, 1),
        ("gguf", torch.float16, 1),
        ("nemo", torch.float32, 1),
        ("nemo", torch.bfloat16, 1),
        ("nemo", torch.float16, 1),
        ("edge", torch.float16, 2),  # alpha / rank lies in its B, and 2 is exact there
    ],
)
def test_weights_stay_bit_for_bit(
    oracle: GetOracle, tmp_path: Path, form: Format, dtype: torch.dtype, factor: int
) -> None:
    one = oracle("llama")
    folder = one.save(tmp_path / "peft", dtype=dtype)
    back = round_trip(one, folder, form, tmp_path)
    before, after = (load_file(each / "adapter_model.safetensors") for each in (folder, back))
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert after[name].dtype == dtype
        assert torch.equal(after[name], tensor if ".lora_A." in name else tensor * factor)


def test_equal_content_has_one_digest_whatever_it_came_in(oracle: GetOracle, tmp_path: Path) -> None:
    one = oracle("llama")
    folder = one.save(tmp_path / "peft", dtype=torch.float16, lora_alpha=4)
    digests = set()
    for form in ("edge", "gguf", "nemo"):
        (tmp_path / form).mkdir()
        convert(folder, form, tmp_path / form / "there", one.info)
        convert(tmp_path / form / "there", "peft", tmp_path / form / "back", one.info)
        digests.add(check_folder(tmp_path / form / "back", one.info, 16).digest)
    assert len(digests) == 1


def test_numpy_rounds_as_torch_does() -> None:
    from loradex.adapters.formats.tensor import narrowed

    wide = np.random.default_rng(0).normal(size=4096) * np.logspace(-9, 9, 4096)
    for name, dtype in (("F16", torch.float16), ("BF16", torch.bfloat16), ("F32", torch.float32)):
        ours = narrowed(wide.astype(np.float32).astype(np.float64), name).widened()
        assert np.array_equal(ours, torch.from_numpy(wide.astype(np.float32)).to(dtype).double().numpy())


@pytest.mark.parametrize("options", [{"use_dora": True}, {"target_modules": ["q_proj", "embed_tokens"]}])
@pytest.mark.parametrize("form", ["edge", "gguf", "nemo"])
def test_what_is_more_than_pairs_on_linears_has_no_place(
    oracle: GetOracle, tmp_path: Path, form: Format, options: dict[str, Any]
) -> None:
    one = oracle("llama")
    folder = one.save(tmp_path / "peft", **options)
    with pytest.raises(AdapterInvalid, match="tensors are no low-rank pair of a linear") as error:
        convert(folder, form, tmp_path / "there", one.info)
    assert "merge_and_unload" in str(error.value)
    assert not (tmp_path / "there").exists()
