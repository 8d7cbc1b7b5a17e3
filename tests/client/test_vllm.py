"""vLLM's routes as the client speaks them, against our server with everything hidden that vLLM has not got."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from loradex import errors
from loradex.client.client import Adapters, Client
from loradex.client.vllm import SWITCHES, VllmAdapters, adapters_of
from loradex.server.app import create_app
from tests.server.serving import Deck, save_adapter, served


class Hidden:
    """Answers as a server does that has no route beginning so."""

    def __init__(self, app: ASGIApp, hidden: tuple[str, ...]) -> None:
        self._app, self._hidden = app, hidden

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer: ASGIApp = self._app
        if scope["type"] == "http" and scope["path"].startswith(self._hidden):
            answer = JSONResponse({"detail": "Not Found"}, 404)
        await answer(scope, receive, send)


def hiding(monkeypatch: pytest.MonkeyPatch, *hidden: str) -> None:
    def create(*given: Any) -> FastAPI:
        app = create_app(*given)
        app.add_middleware(Hidden, hidden=hidden)
        return app

    monkeypatch.setattr("loradex.server.run.create_app", create)


@pytest.fixture
def deck(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Deck]:
    hiding(monkeypatch, "/api/")
    with served(tmp_path) as deck:
        save_adapter(deck.folder / "medical")
        save_adapter(deck.folder / "medical2", seed=1)
        yield deck


@pytest.fixture
def verbs(deck: Deck) -> Iterator[VllmAdapters]:
    with Client(deck.url) as client:
        found = adapters_of(client)
        assert isinstance(found, VllmAdapters)
        yield found


def test_a_server_of_ours_is_known(tmp_path: Path) -> None:
    with served(tmp_path, admin_keys=("secret",)) as deck, Client(deck.url) as client:
        assert isinstance(adapters_of(client), Adapters)


def test_load_list_replace_and_unload(verbs: VllmAdapters, deck: Deck) -> None:
    assert verbs.list() == []
    first = verbs.add("medical", deck.folder / "medical")
    assert (first.name, first.version, first.notes) == ("medical", 0, ())
    card = verbs.get("medical").versions[0]
    assert (card.source, card.base_name) == (str(deck.folder / "medical"), "tiny-base")
    second = verbs.add("medical", deck.folder / "medical2", mode="drain")
    assert second.notes == (SWITCHES,)
    assert verbs.get("medical").versions[0].source == str(deck.folder / "medical2")
    with pytest.raises(errors.Conflict):
        verbs.add("medical", deck.folder / "medical", replace=False)
    verbs.remove("medical")
    assert verbs.list() == []
    for missing in (verbs.remove, verbs.get):
        with pytest.raises(errors.AdapterNotFound, match="medical"):
            missing("medical")


def test_what_the_server_refuses_comes_in_its_words(verbs: VllmAdapters, deck: Deck) -> None:
    with pytest.raises(errors.NotFound, match="Loading lora x failed: No adapter found for"):
        verbs.add("x", deck.folder / "none")
    with pytest.raises(errors.InvalidRequest, match="conflicts with a served base model"):
        verbs.add("tiny-base", deck.folder / "medical")
    assert verbs.list() == []


@pytest.mark.parametrize(
    ("verb", "given", "said"),
    [
        ("check", ("./x",), "only by loading it"),
        ("promote", ("medical", 2), "no versions"),
        ("rollback", ("medical",), "no version to go back to"),
        ("remove", ("medical", 2), "no versions"),
        ("canary", ("medical", {1: 50}), "one adapter only"),
        ("history", ("medical",), "no history"),
        ("configure", ("medical", {}), "no defaults"),
    ],
)
def test_what_it_cannot_do_is_refused_and_says_why(
    verbs: VllmAdapters, verb: str, given: tuple[Any, ...], said: str
) -> None:
    with pytest.raises(errors.Unsupported, match=said) as caught:
        getattr(verbs, verb)(*given)
    assert caught.value.hint


def test_options_that_it_has_not_are_refused_before_anything_is_loaded(verbs: VllmAdapters, deck: Deck) -> None:
    with pytest.raises(errors.Unsupported, match="a canary and a pinned digest"):
        verbs.add("medical", deck.folder / "medical", canary=10, sha256="ab")
    assert verbs.list() == []


def test_a_server_started_without_runtime_loading_says_how(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hiding(monkeypatch, "/api/", "/v1/load", "/v1/unload")
    with served(tmp_path) as deck, Client(deck.url) as client:
        verbs = adapters_of(client)
        with pytest.raises(errors.Unsupported, match="does not load adapters") as caught:
            verbs.add("medical", save_adapter(deck.folder / "medical"))
        assert "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True" in caught.value.hint
        with pytest.raises(errors.Unsupported, match="does not unload adapters"):
            verbs.remove("medical")


def test_our_other_verbs_say_that_this_is_another_server(deck: Deck) -> None:
    with Client(deck.url) as client, pytest.raises(errors.Unsupported, match="has no /api/resident") as caught:
        client.resident()
    assert "loradex serve" in caught.value.hint
