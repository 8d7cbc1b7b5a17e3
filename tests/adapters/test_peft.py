"""The oracle: adapters that PEFT itself saved, over models that transformers itself made."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from loradex.adapters.base_model import read_model_info
from loradex.adapters.check import check_folder
from loradex.adapters.config import LoraConfig
from loradex.adapters.read import read_adapter
from tests.adapters.making import make_config

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

# PEFT and transformers warn of each other and of the odd options that are asked for here on purpose.
pytestmark = pytest.mark.filterwarnings("ignore")

SMALL = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "vocab_size": 40}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}
FAMILIES: dict[str, Callable[[], Any]] = {
    "llama": lambda: transformers.LlamaConfig(**SMALL, **HEADS),
    "qwen2": lambda: transformers.Qwen2Config(**SMALL, **HEADS, tie_word_embeddings=True),
    "gemma2": lambda: transformers.Gemma2Config(**SMALL, **HEADS, head_dim=8),
    "phi3": lambda: transformers.Phi3Config(**SMALL, **HEADS, pad_token_id=0),
    "gpt2": lambda: transformers.GPT2Config(n_embd=16, n_layer=2, n_head=4, vocab_size=40, n_positions=64),
}


def make_model(family: str) -> Any:
    torch.manual_seed(0)
    return transformers.AutoModelForCausalLM.from_config(FAMILIES[family]())


def linears(model: Any) -> dict[str, tuple[int, int]]:
    """What PEFT may target: every linear but the output head."""
    found = {}
    for name, module in model.named_modules():
        if name == "lm_head":
            continue
        if isinstance(module, torch.nn.Linear):
            found[name] = (module.in_features, module.out_features)
        elif type(module).__name__ == "Conv1D":
            found[name] = (module.weight.shape[0], module.weight.shape[1])
    return found


def save(folder: Path, family: str = "llama", adapter: str = "default", **options: Any) -> Any:
    """Save model and adapter as PEFT does, with weights that are not zero; return the PEFT model."""
    model = make_model(family)
    model.save_pretrained(folder / "tiny")
    model.name_or_path = "org/tiny"
    wrapped = peft.get_peft_model(model, peft.LoraConfig(**{"r": 4, "lora_alpha": 8} | options), adapter_name=adapter)
    with torch.no_grad():
        for name, weight in wrapped.named_parameters():
            if "lora_" in name:
                weight.normal_()
    # On its own PEFT would ask the hub whether the vocabulary has grown.
    wrapped.save_pretrained(folder / "adapter", save_embedding_layers=False)
    return wrapped


@pytest.mark.parametrize("family", FAMILIES)
def test_the_base_read_from_files_is_the_base_in_torch(tmp_path: Path, family: str) -> None:
    model = make_model(family)
    model.save_pretrained(tmp_path / "tiny")
    info = read_model_info(tmp_path / "tiny")
    assert {name: (shape.in_features, shape.out_features) for name, shape in info.linears.items()} == linears(model)
    assert (info.id, info.architecture, info.dtype) == ("tiny", type(model).__name__, "float32")
    assert (info.vocab_size, info.max_model_len, info.has_chat_template) == (40, 64, False)


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("llama", {"target_modules": ["q_proj", "v_proj"]}),
        ("llama", {"target_modules": "all-linear", "use_rslora": True}),
        (
            "llama",
            {"target_modules": ["q_proj", "up_proj"], "rank_pattern": {"up_proj": 6}, "alpha_pattern": {"q_proj": 3}},
        ),
        ("llama", {"target_modules": ["q_proj"], "layers_to_transform": [1], "layers_pattern": "layers"}),
        ("llama", {"target_modules": r".*\.0\.self_attn\.[qk]_proj", "init_lora_weights": "gaussian"}),
        ("llama", {"target_modules": "all-linear", "exclude_modules": ["down_proj"], "task_type": "CAUSAL_LM"}),
        ("llama", {"target_modules": ["q_proj"], "bias": "all", "lora_dropout": 0.1}),
        ("llama", {"target_modules": ["v_proj"], "adapter": "medical"}),
        ("phi3", {"target_modules": ["qkv_proj", "gate_up_proj"]}),
        ("gpt2", {"target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True}),
    ],
)
def test_what_peft_saves_is_read_as_peft_holds_it(tmp_path: Path, family: str, options: dict[str, Any]) -> None:
    wrapped = save(tmp_path, family, **options)
    report = check_folder(tmp_path / "adapter", read_model_info(tmp_path / "tiny"), 16)
    assert report.problems == ()
    assert report.warnings == ()
    adapter = read_adapter(tmp_path / "adapter")
    name = options.get("adapter", "default")
    held = {path: module for path, module in wrapped.base_model.model.named_modules() if hasattr(module, "lora_A")}
    assert sorted(adapter.layers) == sorted(held)
    from safetensors.torch import load_file

    tensors = load_file(adapter.weights)
    for path, module in held.items():
        layer = adapter.layers[path]
        assert (layer.rank, layer.scaling) == (module.r[name], module.scaling[name])
        assert (layer.in_features, layer.out_features) == (module.in_features, module.out_features)
        assert torch.equal(tensors[layer.a], module.lora_A[name].weight)
        assert torch.equal(tensors[layer.b], module.lora_B[name].weight)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"alora_invocation_tokens": [1], "modules_to_save": ["norm"]}, "`alora_invocation_tokens` is set beside more"),
        ({"alora_invocation_tokens": [1], "trainable_token_indices": [3]}, "`alora_invocation_tokens` is set besi"),
        ({"init_lora_weights": "olora"}, "`init_lora_weights` is 'olora'"),
    ],
)
def test_what_peft_saves_and_we_do_not_serve_is_refused(tmp_path: Path, options: dict[str, Any], named: str) -> None:
    save(tmp_path, **{"target_modules": ["q_proj"]} | options)
    report = check_folder(tmp_path / "adapter", read_model_info(tmp_path / "tiny"), 16)
    assert any(named in problem.what for problem in report.problems)


@pytest.mark.parametrize("pattern", [r"^model\.layers\.1\..*q_proj", r".*\.1\.self_attn.q_proj", r"(k|q)_proj"])
def test_patterns_match_as_peft_matches_them(tmp_path: Path, pattern: str) -> None:
    from peft.utils.other import get_pattern_key

    table = {"down_proj": 2, pattern: 7}
    (tmp_path / "adapter_config.json").write_text(json.dumps(make_config(r=4, rank_pattern=table)))
    config = LoraConfig.read(tmp_path / "adapter_config.json")
    for module in (
        "model.layers.1.self_attn.q_proj",
        "model.layers.1.mlp.down_proj",
        "model.layers.0.k_proj",
        "q_proj",
    ):
        assert config.rank(module) == table.get(get_pattern_key(table, module), 4)
