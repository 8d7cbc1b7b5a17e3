"""LoraConfig: what TensorRT-LLM is told of adapters before it starts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

CheckpointSource = Literal["hf", "nemo"]


@dataclass(slots=True)
class LoraConfig:
    """Adapters and their limits.

    Attributes:
        lora_dir: adapters that are checked when the base is loaded, so that a wrong path shows then. A server's
            clients may name them.
        lora_ckpt_source: `hf` or `nemo`. The format is recognised by the files, whatever it says.
        max_lora_rank: adapters above it are refused.
        lora_target_modules: names of linears, as TensorRT-LLM, `trtllm_modules_to_hf_modules` or the base call them.
            They are checked and limit nothing: any linear may be changed, and an adapter is served whole or refused.
        trtllm_modules_to_hf_modules: more of TensorRT-LLM's names, each with that of the base.
        max_loras: adapters in the engine at a time.
        max_cpu_loras: adapters in host memory at a time, at least `max_loras`.
        swap_gate_up_proj: taken for TensorRT-LLM's sake: which half is which is known from the tensors' names.
    """

    lora_dir: list[str] = field(default_factory=list)
    lora_ckpt_source: CheckpointSource = "hf"
    max_lora_rank: int | None = None
    lora_target_modules: list[str] = field(default_factory=list)
    trtllm_modules_to_hf_modules: dict[str, str] = field(default_factory=dict)
    max_loras: int | None = None
    max_cpu_loras: int | None = None
    swap_gate_up_proj: bool = True

    @property
    def target_modules(self) -> tuple[str, ...]:
        """`lora_target_modules` in the words of the mapping, where it has them."""
        return tuple(self.trtllm_modules_to_hf_modules.get(name, name) for name in self.lora_target_modules)
