"""Who answers: the fields of six dialects in which a request may say so, made into one mix for each prompt."""

from __future__ import annotations

from fastapi import Request

from loradex.core.adapter import AUTO, Reference
from loradex.core.mix import Mix
from loradex.errors import InvalidRequest
from loradex.server import llamacpp, lorax, sglang, tensorrt_llm
from loradex.server.wire.selection import SelectionFields
from loradex.service.service import Service

_WAYS = ("adapters", "lora_request", "lora_path", "adapter_id", "adapter_source", "merged_adapters", "lora")


async def selected(body: SelectionFields, request: Request, service: Service, prompts: int = 1) -> list[Mix[Reference]]:
    """Return what answers each of `prompts`, beside what `model` says.

    Raises:
        InvalidRequest: two fields name adapters, or one names none.
        LoradexError: whatever the dialect raises.
    """
    ways = [name for name in _WAYS if getattr(body, name) not in (None, "")]
    if body.adapter_id and body.adapter_source:
        ways.remove("adapter_source")
    if not ways:
        return [Mix()] * prompts
    if len(ways) > 1:
        hint = "Name adapters in one field"
        raise InvalidRequest(f"Both `{ways[0]}` and `{ways[1]}` name adapters", hint=hint, param=ways[1])
    if body.model == AUTO:
        hint = f"Leave `{ways[0]}` out, or let `model` name the base"
        raise InvalidRequest(f"`{AUTO}` chooses the adapter, and `{ways[0]}` names one", hint=hint, param=ways[0])
    try:
        return await _mixes(body, request, service, prompts)
    except InvalidRequest as error:
        error.param = error.param if (error.param or "").startswith(ways[0]) else ways[0]
        raise


async def _mixes(body: SelectionFields, request: Request, service: Service, prompts: int) -> list[Mix[Reference]]:
    if body.lora_path:
        return sglang.paths(body.lora_path, prompts)
    if body.lora_request is not None:
        mix = await tensorrt_llm.requested(body.lora_request, request, service)
    elif body.adapter_id or body.adapter_source or body.merged_adapters is not None:
        mix = await lorax.named(body, request, service)
    elif body.lora is not None:
        mix = llamacpp.scaled(body.lora, request, service)
    else:
        mix = body.mix()
    return [mix] * prompts
