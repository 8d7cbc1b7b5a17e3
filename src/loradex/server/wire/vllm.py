"""Bodies of vLLM's two adapter routes."""

from __future__ import annotations

from typing import Literal

from loradex.server.body import Body, Whole


class LoadLoraBody(Body):
    """Load an adapter. `loradex_mode` is ours: what happens to answers under way when a name is loaded in place."""

    lora_name: str
    lora_path: str
    load_inplace: bool = False
    is_3d_lora_weight: bool = False
    lora_int_id: Whole | None = None
    base_model_name: str | None = None
    loradex_mode: Literal["drain", "immediate"] = "drain"


class UnloadLoraBody(Body):
    """Unload an adapter; `lora_int_id` is ignored, as vLLM does."""

    lora_name: str
    lora_int_id: Whole | None = None
