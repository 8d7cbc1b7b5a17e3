"""What PEFT trained on changed base weights gives the same logits on the base as it is, once it is made plain."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from peft.tuners.lora.config import CordaConfig
from peft.tuners.lora.corda import preprocess_corda

from loradex.adapters.check import check_folder
from loradex.adapters.formats.convert import convert
from loradex.errors import AdapterInvalid
from tests.adapters.formats.oracle import TOKENS, Oracle

pytestmark = pytest.mark.filterwarnings("ignore")
GetOracle = Callable[[str], Oracle]
SETTINGS: dict[str, Any] = {"r": 3, "lora_alpha": 5, "target_modules": ["q_proj", "down_proj", "gate_up_proj"]}


@pytest.mark.parametrize("options", [{}, {"use_rslora": True, "rank_pattern": {"q_proj": 5}, "lora_alpha": 7}])
# OLoRA of a Conv1D is nothing that PEFT could compute with.
@pytest.mark.parametrize(("family", "method"), [("llama", "pissa"), ("llama", "OLoRA"), ("gpt2", "pissa")])
def test_the_base_tells_how_pissa_and_olora_began(
    oracle: GetOracle, tmp_path: Path, family: str, method: str, options: dict[str, Any]
) -> None:
    one = oracle(family)
    trained = one.save(tmp_path / "trained", init_lora_weights=method, **options)
    (problem,) = check_folder(trained, one.info, 16).problems
    assert problem.code == "changed_base"
    assert "adapter convert" in problem.fix
    done = convert(trained, "peft", tmp_path / "plain", one.info)
    assert check_folder(done.path, one.info, 16).problems == ()
    before = one.logits(trained)
    assert (before - one.logits(None)).abs().max() > 0.02
    torch.testing.assert_close(one.logits(done.path), before, rtol=0, atol=2e-5)


def save_both(one: Oracle, folder: Path, method: str) -> torch.Tensor:
    """Save an adapter before and after it was trained; return PEFT's logits afterwards."""
    torch.manual_seed(1)
    config = peft.LoraConfig(init_lora_weights=method, **SETTINGS)
    model = copy.deepcopy(one.model)
    if method == "corda":
        config.corda_config = CordaConfig()
        preprocess_corda(model, config, run_model=lambda: model(torch.arange(40).view(1, 40)))
    wrapped = peft.get_peft_model(model, config)
    wrapped.save_pretrained(folder / "initial")
    with torch.no_grad():
        for name, weight in wrapped.named_parameters():
            if "lora_" in name:
                weight.add_(torch.randn_like(weight) * 0.1)
        found: torch.Tensor = wrapped(TOKENS).logits
    wrapped.save_pretrained(folder / "trained")
    return found


@pytest.mark.parametrize("method", ["corda", "pissa_niter_2", "olora"])
def test_the_adapter_before_training_tells_it_for_the_others(oracle: GetOracle, tmp_path: Path, method: str) -> None:
    one = oracle("llama")
    expected = save_both(one, tmp_path, method)
    if method != "olora":
        with pytest.raises(AdapterInvalid, match="Name the adapter as it was before training with `--initial`"):
            convert(tmp_path / "trained", "peft", tmp_path / "plain", one.info)
    done = convert(tmp_path / "trained", "peft", tmp_path / "plain", None, tmp_path / "initial")
    assert (expected - one.logits(None)).abs().max() > 0.02
    torch.testing.assert_close(one.logits(done.path), expected, rtol=0, atol=2e-5)


def test_another_adapter_is_not_taken_for_the_initial_one(oracle: GetOracle, tmp_path: Path) -> None:
    one = oracle("llama")
    trained = one.save(tmp_path / "trained", init_lora_weights="olora")
    other = one.save(tmp_path / "other", target_modules=["q_proj"])
    with pytest.raises(AdapterInvalid, match=r"no pair of the same inputs and outputs for `model\.layers\.0"):
        convert(trained, "peft", tmp_path / "plain", None, other)


def test_a_base_without_the_modules_is_refused(oracle: GetOracle, tmp_path: Path) -> None:
    trained = oracle("llama").save(tmp_path / "trained", init_lora_weights="olora")
    with pytest.raises(AdapterInvalid, match=r"has no weights for `model\.layers\.0"):
        convert(trained, "peft", tmp_path / "plain", oracle("phi3").info)
