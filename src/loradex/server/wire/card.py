"""Model cards, as vLLM writes them."""

from __future__ import annotations

import uuid

from pydantic import BaseModel, Field


class Permission(BaseModel):
    """A constant that old clients expect."""

    id: str = Field(default_factory=lambda: f"modelperm-{uuid.uuid4().hex}")
    object: str = "model_permission"
    created: int
    allow_create_engine: bool = False
    allow_sampling: bool = True
    allow_logprobs: bool = True
    allow_search_indices: bool = False
    allow_view: bool = True
    allow_fine_tuning: bool = False
    organization: str = "*"
    group: str | None = None
    is_blocking: bool = False


class Card(BaseModel):
    """The base model, or an adapter. Adapters have a `parent`, and `root` is where they came from."""

    id: str
    object: str = "model"
    created: int
    owned_by: str = "loradex"
    root: str
    parent: str | None
    max_model_len: int | None
    permission: list[Permission]


class CardList(BaseModel):
    """Everything that `model` may name."""

    object: str = "list"
    data: list[Card]
