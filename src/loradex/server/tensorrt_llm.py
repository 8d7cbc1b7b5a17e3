"""TensorRT-LLM's `lora_request`: an adapter that comes with its path."""

from __future__ import annotations

from fastapi import Request

from loradex.core.adapter import Reference, check_name
from loradex.core.mix import Mix
from loradex.server.auth import actor_of, is_admin
from loradex.server.wire.selection import LoraRequestBody
from loradex.service.service import Service


async def requested(given: LoraRequestBody, request: Request, service: Service) -> Mix[Reference]:
    """Return what a `lora_request` means: its name alone, or with a path the version that lies there.

    Raises:
        PathNotAllowed: the path lies outside the allowed folders.
        PermissionDenied: nothing was loaded from there before, and the key may only ask.
        LoradexError: whatever `Places.version` raises.
    """
    if not given.lora_path:
        return Mix.of(Reference.parse(given.lora_name))
    check_name(given.lora_name, "`lora_name`")
    return Mix.of(await place(given.lora_name, given.lora_path, request, service))


async def place(name: str, where: str, request: Request, service: Service) -> Reference:
    """Return the version of a name that lies somewhere: registered now, where the key may do that."""
    if is_admin(request):
        return await service.places.version(name, where, actor=actor_of(request))
    return await service.places.registered(name, where)
