"""Bodies of the routes that tell about the server itself."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict


class Health(BaseModel):
    """The process answers."""

    status: Literal["ok"] = "ok"


class Ready(BaseModel):
    """Whether requests can be answered."""

    ready: bool


class ModelReply(BaseModel):
    """The base model."""

    model_config = ConfigDict(protected_namespaces=())

    id: str
    path: str
    architecture: str
    dtype: str
    quantization: str
    kv_cache_dtype: str
    device: str
    vocab_size: int
    max_model_len: int
    has_chat_template: bool
    digest: str


class Limits(BaseModel):
    """What the server was told to hold to."""

    max_loras: int
    max_lora_rank: int
    max_model_len: int


class Stats(BaseModel):
    """The engine at this moment; counters run from its start."""

    running: int
    waiting: int
    blocks_total: int
    blocks_free: int
    block_size: int
    preemptions: int
    prefix_queries: int
    prefix_hits: int
    steps: int
    step_seconds: float


class Info(BaseModel):
    """What this server is."""

    product: Literal["loradex"] = "loradex"
    version: str
    model: ModelReply
    limits: Limits
    stats: Stats
