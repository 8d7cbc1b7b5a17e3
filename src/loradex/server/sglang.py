"""SGLang: `lora_path` in requests, and its two routes that load and unload. (`model="base:adapter"` works anywhere.)"""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import APIRouter, Depends

from loradex.core.adapter import Reference
from loradex.core.mix import Mix, parse_mix
from loradex.errors import AdapterNotFound, Conflict, InvalidRequest, LoradexError
from loradex.server.auth import Actor, may_admin
from loradex.server.dialect import errors, speaking, told
from loradex.server.errors import AsciiJSON
from loradex.server.state import TheService
from loradex.server.wire.sglang import LoadBody, LoraReply, UnloadBody
from loradex.service.service import Service


def paths(given: str | Sequence[str | None], prompts: int) -> list[Mix[Reference]]:
    """Return what a `lora_path` means for each prompt; None is the base. It holds names, as SGLang loads them first.

    Raises:
        InvalidRequest: a name is none, or there is not one for each prompt.
    """
    names = [given] * prompts if isinstance(given, str) else list(given)
    if len(names) != prompts:
        hint = "Give one name for all, or one for each prompt"
        raise InvalidRequest(f"lora_path has {len(names)} entries for {prompts} prompts", hint=hint, param="lora_path")
    if outside := [name for name in names if name and "/" in name]:
        raise InvalidRequest(
            f"lora_path is {outside[0][:200]!r}, which is no name of an adapter",
            hint="Load it first with POST /load_lora_adapter, then send its `lora_name`",
            param="lora_path",
        )
    return [parse_mix(name) if name else Mix() for name in names]


def _refused(error: LoradexError) -> AsciiJSON:
    reply = LoraReply(success=False, error_message=told(error), loaded_adapters=None)
    return AsciiJSON(reply.model_dump(), 400 if error.status < 500 and error.status not in (401, 403) else error.status)


router = APIRouter(tags=["SGLang"], route_class=speaking(_refused), dependencies=[Depends(may_admin)])


@router.post("/load_lora_adapter", responses=errors(LoraReply))
async def load_lora_adapter(body: LoadBody, service: TheService, actor: Actor) -> LoraReply:
    """Load an adapter under a name that is not loaded yet; with `pinned`, it stays in memory."""
    try:
        await service.adapters.add(body.lora_name, body.lora_path, replace=False, actor=actor)
    except Conflict as error:
        if body.lora_name in service.base_names:
            raise
        said = f"Failed to load LoRA adapter {body.lora_name} because it is already loaded"
        raise Conflict(said, hint="Unload it first, or replace it: loradex adapter add NAME PATH") from error
    if body.pinned:
        await service.residents.pin(body.lora_name, actor=actor)
    return LoraReply(success=True, error_message=None, loaded_adapters=_loaded(service))


@router.post("/unload_lora_adapter", responses=errors(LoraReply))
async def unload_lora_adapter(body: UnloadBody, service: TheService, actor: Actor) -> LoraReply:
    """Take a name out of the model list and free its weights when its last answer has ended."""
    loaded = _loaded(service)
    if body.lora_name not in loaded:
        raise AdapterNotFound(f"LoRA with name {body.lora_name} does not exist. Loaded LoRAs: {', '.join(loaded)}")
    await service.residents.unload(body.lora_name, disable=True, actor=actor)
    return LoraReply(success=True, error_message=None, loaded_adapters=_loaded(service))


def _loaded(service: Service) -> dict[str, str]:
    return {card.id: card.root for card in service.models() if card.parent is not None}
