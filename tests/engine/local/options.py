"""PEFT's options, each with an adapter that uses it: random in every weight, so that what is left out shows.

`python -m tests.engine.local.options` writes the matrix in `docs/peft.md` anew; a test holds the two together.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import PreTrainedModel

from loradex.adapters.files import find_files

from . import tiny

NAMES: Mapping[str, Mapping[str, str]] = {
    "gpt2": {"embedding": "wte", "norm": "ln_1", "q": "c_attn", "down": "mlp.c_proj", "layers": "h"},
    "phi3": {"q": "qkv_proj"},
}
USUAL = {
    **{"embedding": "embed_tokens", "head": "lm_head", "layers": "layers"},
    **{"norm": "input_layernorm", "q": "q_proj", "down": "down_proj"},
}
TOKENS = [3, 5, 77, 40, 200]
INVOCATION = [9, 8]
"""Both are in every prompt of `test_options`."""


@dataclass(frozen=True)
class Option:
    """One row of the matrix: what it says, and the configuration that sets it for a family's names of modules.

    `adapter` is the name that PEFT knows the adapter by.
    """

    says: str
    config: Callable[[Mapping[str, str]], dict[str, Any]]
    families: tuple[str, ...] = ("llama", "qwen2", "gpt2", "gemma3", "phi3", "qwen3_moe")
    adapter: str = "default"

    def settings(self, family: str) -> dict[str, Any]:
        names = USUAL | NAMES.get(family, {})
        targets = [*tiny.TARGETS.get(family, tiny.USUAL)[2]]
        return {"target_modules": targets, "r": 4, "lora_alpha": 6} | self.config(names)


OPTIONS: dict[str, Option] = {
    "rank_pattern": Option(
        "`rank_pattern`, `alpha_pattern`",
        lambda m: {"rank_pattern": {m["q"]: 7}, "alpha_pattern": {rf"layers\.0.*{m['q']}": 3, m["q"]: 11}},
    ),
    "use_rslora": Option("`use_rslora`", lambda m: {"use_rslora": True, "rank_pattern": {m["q"]: 7}}),
    "layers": Option("`layers_to_transform`", lambda m: {"layers_to_transform": [1]}),
    "layers_pattern": Option(
        "`layers_to_transform` with `layers_pattern`",
        lambda m: {"layers_to_transform": [0], "layers_pattern": m["layers"]},
    ),
    "regex": Option("regular expression in `target_modules`", lambda m: {"target_modules": rf".*\.1\..*{m['q']}"}),
    "all-linear": Option(
        "`all-linear`, `exclude_modules`",
        lambda m: {"target_modules": "all-linear", "exclude_modules": [m["q"]]},
        families=("llama", "qwen2", "gpt2", "gemma3", "phi3"),
    ),
    "exclude": Option(
        "regular expression in `exclude_modules`", lambda m: {"exclude_modules": rf".*\.0\..*({m['q']}|{m['down']})"}
    ),
    "named": Option("saved under a name of its own, in a sub-folder", lambda m: {}, adapter="tuned"),
    "use_dora": Option("`use_dora`", lambda m: {"use_dora": True}),
    "dora_rslora": Option("`use_dora` with `use_rslora`", lambda m: {"use_dora": True, "use_rslora": True}),
    "lora_bias": Option("`lora_bias`", lambda m: {"lora_bias": True}),
    "bias": Option('`bias="all"`', lambda m: {"bias": "all"}, families=("qwen2", "gpt2")),
    "bias_dora": Option(
        '`bias="all"` with `use_dora`', lambda m: {"bias": "all", "use_dora": True}, families=("qwen2", "gpt2")
    ),
    "norms": Option("`modules_to_save` of norms", lambda m: {"modules_to_save": [m["norm"]]}),
    "linear": Option(
        "`modules_to_save` of linears", lambda m: {"target_modules": [m["q"]], "modules_to_save": [m["down"]]}
    ),
    "ends": Option(
        "`modules_to_save` of embedding and head", lambda m: {"modules_to_save": [m["embedding"], m["head"]]}
    ),
    "embedding_saved": Option(
        "`modules_to_save` of the embedding alone", lambda m: {"modules_to_save": [m["embedding"]]}
    ),
    "head": Option("LoRA on the output head", lambda m: {"target_modules": [m["q"], m["head"]]}),
    "head_dora": Option(
        "LoRA on the output head with `use_dora`", lambda m: {"target_modules": [m["q"], m["head"]], "use_dora": True}
    ),
    "embedding": Option("LoRA on the embedding", lambda m: {"target_modules": [m["q"], m["embedding"]]}),
    "embedding_dora": Option(
        "LoRA on the embedding with `use_dora`",
        lambda m: {"target_modules": [m["q"], m["embedding"]], "use_dora": True},
    ),
    "both_ends": Option("LoRA on embedding and output head", lambda m: {"target_modules": [m["embedding"], m["head"]]}),
    "tokens": Option("`trainable_token_indices`", lambda m: {"trainable_token_indices": TOKENS}),
    "tokens_apart": Option(
        "`trainable_token_indices` of embedding and head",
        lambda m: {"trainable_token_indices": {m["embedding"]: TOKENS[:3], m["head"]: TOKENS[1:]}},
        families=("llama", "qwen2"),
    ),
    "activated": Option(
        "`alora_invocation_tokens`, with `lora_bias`",
        lambda m: {
            "alora_invocation_tokens": INVOCATION,
            "lora_bias": True,
        },
        families=("llama", "qwen2", "gpt2"),
    ),
    "experts": Option(
        "`target_parameters` of experts",
        lambda m: {
            "target_modules": [m["q"]],
            "target_parameters": ["mlp.experts.gate_up_proj", "experts.down_proj"],
            "rank_pattern": {"experts.down_proj": 3},
            "alpha_pattern": {r"layers\.0.*gate_up_proj": 3},
        },
        families=("qwen3_moe",),
    ),
    "experts_down": Option(
        "`target_parameters` of one weight of the experts, with `use_rslora`",
        lambda m: {"target_modules": [], "target_parameters": ["experts.down_proj"], "use_rslora": True},
        families=("qwen3_moe",),
    ),
}
"""The rows of the matrix."""

MORE, FEWER = tiny.VOCAB + 9, 300
ENDS = ["embed_tokens", "lm_head"]

VOCABULARIES: dict[str, tuple[str, int, dict[str, Any]]] = {
    "linears": ("added tokens, LoRA on linears", MORE, {"target_modules": ["q_proj", "down_proj"]}),
    "saved": (
        "added tokens, `modules_to_save` of embedding and head",
        MORE,
        {"target_modules": ["q_proj"], "modules_to_save": ENDS},
    ),
    "pairs": ("added tokens, LoRA on embedding and head", tiny.VOCAB + 3, {"target_modules": [*ENDS, "v_proj"]}),
    "dora": (
        "added tokens, LoRA on embedding and head with `use_dora`",
        MORE,
        {"target_modules": [*ENDS, "v_proj"], "use_dora": True},
    ),
    "tokens": (
        "added tokens, `trainable_token_indices`",
        MORE,
        {"target_modules": ["q_proj"], "trainable_token_indices": [MORE - 1, 7, tiny.VOCAB + 2]},
    ),
    "fewer": ("fewer tokens than the base", FEWER, {"target_modules": ["q_proj"]}),
    "fewer, saved": (
        "fewer tokens than the base, `modules_to_save` of embedding and head",
        FEWER,
        {"target_modules": ["q_proj"], "modules_to_save": ENDS},
    ),
    "spare rows": (
        "added tokens in spare rows of the base, `trainable_token_indices`",
        tiny.VOCAB,
        {"target_modules": ["q_proj"], "trainable_token_indices": [259, 300]},
    ),
}
"""Rows of the matrix for vocabularies of an adapter's own: how many token ids there are, and what is trained.

`test_vocabulary` compares them."""

VOCABULARY_FAMILIES = ("llama", "qwen2", "gemma3")

MIXED = (
    *("rank_pattern", "use_rslora", "use_dora", "norms", "linear", "ends", "head_dora", "embedding_dora"),
    *("tokens_apart", "experts", "experts_down"),
)
"""Those that are also compared as members of a mix, with weights."""


def save_option(name: str, family: str, base: PreTrainedModel, folder: Path) -> Path:
    """Save an adapter that uses an option."""
    torch.manual_seed(sum(name.encode()))
    config = LoraConfig(
        init_lora_weights=False,
        fan_in_fan_out=family == "gpt2",
        task_type="CAUSAL_LM",
        **OPTIONS[name].settings(family),
    )
    model = get_peft_model(copy.deepcopy(base), config, OPTIONS[name].adapter)
    with torch.no_grad():
        for path, tensor in model.named_parameters():
            # A and B are random already; the rest starts as the base has it, or as nothing.
            if tensor.requires_grad and not any(f".lora_{side}.default.weight" in path for side in "AB"):
                tensor.add_(torch.randn_like(tensor) * 0.3 * (tensor.abs().mean() + 0.2))
    model.create_or_update_model_card = lambda folder: None  # it takes longer than all the rest
    model.save_pretrained(folder / name)
    return folder / name


def load_option(base: PreTrainedModel, adapter: Path) -> PeftModel:
    """Load an adapter as PEFT does."""
    return PeftModel.from_pretrained(copy.deepcopy(base), find_files(adapter).folder).eval()


@torch.inference_mode()
def last_logits(model: torch.nn.Module, tokens: list[int]) -> torch.Tensor:
    """Return the logits after the last token, `[vocabulary]`."""
    return model(input_ids=torch.tensor([tokens]), use_cache=False).logits[0, -1]


PAGE = Path(__file__).parents[3] / "docs" / "peft.md"
BEGIN, END = "<!-- matrix -->\n", "<!-- end of matrix -->\n"


def matrix() -> str:
    """Return the table of what `test_options` compares with PEFT: option by family."""
    families = list(dict.fromkeys(family for option in OPTIONS.values() for family in option.families))
    lines = [f"| | {' | '.join(families)} | in a mix |", "|---" * (len(families) + 2) + "|"]
    for name, option in OPTIONS.items():
        cells = ["yes" if family in option.families else "" for family in families]
        lines.append(f"| {option.says} | {' | '.join(cells)} | {'yes' if name in MIXED else ''} |")
    for says, _, _ in VOCABULARIES.values():
        cells = ["yes" if family in VOCABULARY_FAMILIES else "" for family in families]
        lines.append(f"| {says} | {' | '.join(cells)} |  |")
    return "\n".join(lines) + "\n"


def page() -> str:
    """Return the page with the matrix as it is now."""
    before, _, rest = PAGE.read_text("utf-8").partition(BEGIN)
    return before + BEGIN + matrix() + END + rest.partition(END)[2]


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
