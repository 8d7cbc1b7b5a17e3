"""One real server on this machine, and the real `openai` package as its client."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import httpx
import pytest
from openai import OpenAI

from tests.server.serving import Deck, save_adapter, served

INFER, ADMIN = "key-infer", "key-admin"


@dataclass
class House:
    """A server with keys, two versions of `medical` and one of `legal`."""

    deck: Deck
    digests: dict[str, str]

    def client(self, key: str = INFER) -> OpenAI:
        """Return a client that does not try again."""
        return OpenAI(base_url=f"{self.deck.url}/v1", api_key=key, max_retries=0)

    def post(self, path: str, body: object, key: str = ADMIN) -> httpx.Response:
        """Send JSON to a route that the package does not know."""
        return httpx.post(f"{self.deck.url}{path}", json=body, headers={"authorization": f"Bearer {key}"})


@pytest.fixture(scope="session")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with served(tmp_path_factory.mktemp("house"), infer_keys=(INFER,), admin_keys=(ADMIN,)) as deck:
        house = House(deck, {})
        for name, seed in (("medical", 1), ("medical", 2), ("legal", 3)):
            folder = save_adapter(deck.folder / f"{name}-{seed}", seed=seed)
            reply = house.post("/api/adapters", {"name": name, "path": str(folder)}).raise_for_status().json()
            house.digests[f"{name}@{reply['version']}"] = reply["digest"]
        yield house


@pytest.fixture
def client(house: House) -> OpenAI:
    return house.client()
