"""LoraConfig: what TensorRT-LLM is told of adapters before it starts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from loradex.errors import ConfigInvalid, near
from loradex.llm.lora_request import CheckpointSource

TRTLLM_MODULES: Final = frozenset(
    {
        *("attn_q", "attn_k", "attn_v", "attn_qkv", "attn_dense"),
        *("mlp_h_to_4h", "mlp_4h_to_h", "mlp_gate", "mlp_gate_up"),
        *("moe_h_to_4h", "moe_4h_to_h", "moe_gate", "moe_router"),
    }
)
"""TensorRT-LLM's names of linears."""


@dataclass(slots=True)
class LoraConfig:
    """Adapters and their limits.

    Attributes:
        lora_dir: adapters that are checked when the `LLM` is made, so that a wrong path shows then.
        lora_ckpt_source: `hf` or `nemo`. The format is recognised by the files, whatever it says.
        max_lora_rank: adapters above it are refused.
        lora_target_modules: names of linears, as TensorRT-LLM, `trtllm_modules_to_hf_modules` or the base call them.
            They are checked and limit nothing: any linear may be changed, and an adapter is served whole or refused.
        trtllm_modules_to_hf_modules: more of TensorRT-LLM's names, each with that of the base.
        max_loras: adapters in the engine at a time.
        max_cpu_loras: adapters in host memory at a time, at least `max_loras`.
    """

    lora_dir: list[str] = field(default_factory=list)
    lora_ckpt_source: CheckpointSource = "hf"
    max_lora_rank: int | None = None
    lora_target_modules: list[str] = field(default_factory=list)
    trtllm_modules_to_hf_modules: dict[str, str] = field(default_factory=dict)
    max_loras: int | None = None
    max_cpu_loras: int | None = None

    def check_modules(self, linears: Iterable[str]) -> None:
        """Check `lora_target_modules`.

        Args:
            linears: module paths of the base's linears (`model.layers.0.self_attn.q_proj`).

        Raises:
            ConfigInvalid: a name is neither TensorRT-LLM's nor the base's.
        """
        kinds = {path.rpartition(".")[2] for path in linears}
        known = {*TRTLLM_MODULES, *self.trtllm_modules_to_hf_modules, *kinds}
        for module in self.lora_target_modules:
            if module not in known:
                close = near(module, known)
                raise ConfigInvalid(
                    f"lora_target_modules has {module!r}, which is no module of the base",
                    hint=f"Did you mean `{close[0]}`?" if close else f"Give some of {', '.join(sorted(kinds))}",
                    param="lora_target_modules",
                )
