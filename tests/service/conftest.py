from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest_asyncio

from .deck import Deck

MakeDeck = Callable[..., Awaitable[Deck]]


@pytest_asyncio.fixture
async def make_deck(tmp_path: Path) -> AsyncIterator[MakeDeck]:
    decks: list[Deck] = []

    async def make(**options: object) -> Deck:
        deck = Deck(tmp_path, **options)  # type: ignore[arg-type]
        await deck.service.start()
        decks.append(deck)
        return deck

    yield make
    for deck in decks:
        await deck.service.stop()
        deck.registry.close()


@pytest_asyncio.fixture
async def deck(make_deck: MakeDeck) -> Deck:
    return await make_deck()
