from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from loradex.cli.offline import Offline
from loradex.cli.output import Output
from loradex.cli.target import Target
from loradex.client.client import Adapters
from loradex.settings import Settings
from tests.server.serving import Deck, served


def at_the_usual_place(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    parts = urlsplit(url)
    monkeypatch.setattr("loradex.client.wire.DEFAULT_URL", url)
    monkeypatch.setattr("loradex.cli.target._USUAL", (parts.hostname, parts.port))


@pytest.fixture(params=[(), ("secret",)], ids=["open", "locked"])
def deck(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Deck]:
    with served(tmp_path, admin_keys=request.param) as deck:
        yield deck


def test_a_server_at_the_usual_address_does_the_work(
    deck: Deck, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    at_the_usual_place(monkeypatch, deck.url)
    settings = Settings(home=tmp_path / "elsewhere")
    assert isinstance(Target(settings, Output()).adapters(), Adapters)
    # A base that is named means: here, without the server.
    assert isinstance(Target(settings, Output()).adapters(tmp_path), Offline)


def test_without_a_server_the_registry_is_opened_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    at_the_usual_place(monkeypatch, "http://127.0.0.1:9")
    assert isinstance(Target(Settings(home=tmp_path), Output()).adapters(), Offline)


def test_paths_are_full_unless_the_server_is_elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for url in ("", "http://127.0.0.1:1", "http://localhost:1"):
        assert Target(Settings(url=url), Output()).place("x") == str(tmp_path / "x")
    assert Target(Settings(url="http://gpu.example:8000"), Output()).place("x") == "x"
