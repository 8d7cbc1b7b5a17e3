"""Bodies of SGLang's two adapter routes."""

from __future__ import annotations

from pydantic import BaseModel

from loradex.server.body import Body


class LoadBody(Body):
    """Load an adapter; `lora_id` is ignored."""

    lora_name: str
    lora_path: str
    pinned: bool = False
    lora_id: str | None = None


class UnloadBody(Body):
    """Unload an adapter."""

    lora_name: str
    lora_id: str | None = None


class LoraReply(BaseModel):
    """How it went, and what is loaded now; null where it failed."""

    success: bool
    error_message: str | None
    loaded_adapters: dict[str, str] | None
