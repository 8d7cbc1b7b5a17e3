"""The block in which somebody has the model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from loradex.manager.model import Model
from loradex.manager.shared import SharedModel


class Use:
    """Lends the base model for a block, under an adapter. Every block, and every entry, has a handle of its own."""

    def __init__(self, shared: SharedModel, adapters: Mapping[str, str], schemas: Mapping[str, Any], name: str) -> None:
        self._shared = shared
        self._what = (adapters, schemas, name)
        self._models: list[Model] = []

    def __enter__(self) -> Model:
        self._models.append(Model(self._shared.borrow(), *self._what))
        return self._models[-1]

    def __exit__(self, *_: object) -> None:
        self._models.pop().end()
        self._shared.give_back()

    async def __aenter__(self) -> Model:
        self._models.append(Model(await self._shared.borrow_async(), *self._what))
        return self._models[-1]

    async def __aexit__(self, *_: object) -> None:
        self.__exit__()
