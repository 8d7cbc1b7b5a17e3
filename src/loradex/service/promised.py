"""What settings say of adapters before the base is loaded, checked when it is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from loradex.errors import ConfigInvalid, near
from loradex.service.service import Service

TRTLLM_MODULES: Final = frozenset(
    {
        *("attn_q", "attn_k", "attn_v", "attn_qkv", "attn_dense"),
        *("mlp_h_to_4h", "mlp_4h_to_h", "mlp_gate", "mlp_gate_up"),
        *("moe_h_to_4h", "moe_4h_to_h", "moe_gate", "moe_router"),
    }
)
"""TensorRT-LLM's names of linears."""


async def check_promised(service: Service, modules: Sequence[str], adapters: Sequence[str]) -> None:
    """Check names of linears, and adapters, of a service that has started.

    Raises:
        ConfigInvalid: a name is neither TensorRT-LLM's nor the base's.
        FilesNotFound, SourceFailed, AdapterInvalid: about an adapter.
    """
    check_modules(modules, service.info.linears)
    for source in adapters:
        checked = await service.adapters.check(source, trusted=True, allow_pickle=True)
        checked.report.raise_if_bad(source)


def check_modules(modules: Sequence[str], linears: Iterable[str]) -> None:
    """Check names of linears.

    Args:
        modules: the names.
        linears: module paths of the base's linears (`model.layers.0.self_attn.q_proj`).

    Raises:
        ConfigInvalid: a name is neither TensorRT-LLM's nor the base's.
    """
    kinds = {path.rpartition(".")[2] for path in linears}
    known = {*TRTLLM_MODULES, *kinds}
    for module in modules:
        if module not in known:
            close = near(module, known)
            raise ConfigInvalid(
                f"lora_target_modules has {module!r}, which is no module of the base",
                hint=f"Did you mean `{close[0]}`?" if close else f"Give some of {', '.join(sorted(kinds))}",
                param="target_modules",
            )
