"""Tiny models and adapters as PEFT saves them, and the logits that PEFT itself computes with them."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import peft
import torch
import transformers

from loradex.adapters.base_model import read_model_info
from loradex.core.model import ModelInfo

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "vocab_size": 40, "head_dim": 8}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}
"""Grouped-query attention: q has twice the rows of k and v."""

FAMILIES = {
    "llama": lambda: transformers.LlamaConfig(**SIZES, **HEADS),
    "mistral": lambda: transformers.MistralConfig(**SIZES, **HEADS),
    "qwen2": lambda: transformers.Qwen2Config(**SIZES, **HEADS),
    "qwen3": lambda: transformers.Qwen3Config(**SIZES, **HEADS),
    "gemma2": lambda: transformers.Gemma2Config(**SIZES, **HEADS),
    "phi3": lambda: transformers.Phi3Config(
        **{key: value for key, value in SIZES.items() if key != "head_dim"}, **HEADS, pad_token_id=0
    ),
    "gpt2": lambda: transformers.GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=40, n_positions=64),
}
ALL = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
TARGETS = {"phi3": ("qkv_proj", "o_proj", "gate_up_proj", "down_proj"), "gpt2": ("c_attn", "c_fc", "c_proj")}
TOKENS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]])


class Oracle:
    """One base model on disk, and PEFT over it."""

    def __init__(self, folder: Path, family: str) -> None:
        torch.manual_seed(0)
        self.model = transformers.AutoModelForCausalLM.from_config(FAMILIES[family]()).eval()
        self.path = folder / "base"
        self.model.save_pretrained(self.path)
        self.info: ModelInfo = read_model_info(self.path)
        self.targets = TARGETS.get(family, ALL)

    def save(self, folder: Path, dtype: torch.dtype = torch.float32, seed: int = 0, **options: Any) -> Path:
        """Save an adapter with weights that are not zero."""
        config = peft.LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": list(self.targets)} | options)
        config.fan_in_fan_out = self.info.architecture == "GPT2LMHeadModel"
        wrapped = peft.get_peft_model(copy.deepcopy(self.model), config)
        torch.manual_seed(seed + 1)
        with torch.no_grad():
            for name, weight in wrapped.named_parameters():
                if "lora_" in name:
                    weight.normal_(std=0.3)
                    weight.data = weight.data.to(dtype)
        wrapped.save_pretrained(folder, save_embedding_layers=False)
        return folder

    def logits(self, folder: Path | None) -> torch.Tensor:
        """Return what PEFT computes with the adapter in a folder, in fp32; without one, what the base does."""
        model = copy.deepcopy(self.model)
        wrapped = peft.PeftModel.from_pretrained(model, folder).float() if folder else model
        with torch.no_grad():
            return wrapped(TOKENS).logits
