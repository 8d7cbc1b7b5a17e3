"""A real server over the fake engine, with two adapters that its clients may load."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from loradex.client.client import Client
from tests.server.serving import Deck, save_adapter, served


@dataclass
class Served:
    """The server, a client for it, and adapters on disk."""

    deck: Deck
    client: Client
    medical: Path
    medical2: Path
    broken: Path

    @property
    def url(self) -> str:
        return self.deck.url


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Served]:
    with served(tmp_path) as deck, Client(deck.url, timeout=20) as client:
        yield Served(
            deck,
            client,
            save_adapter(deck.folder / "medical"),
            save_adapter(deck.folder / "medical2", seed=1),
            save_adapter(deck.folder / "broken", seed=2, broken=True),
        )
