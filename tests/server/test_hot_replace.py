"""A replace over HTTP while a stream runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from .serving import Deck, eventually, save_adapter, served

LOAD = "/v1/load_lora_adapter"


@pytest.fixture
def deck(tmp_path: Path) -> Iterator[Deck]:
    with served(tmp_path, tokens_per_second=400.0) as deck:
        load(deck, 1)
        yield deck


def load(deck: Deck, seed: int, **more: object) -> None:
    folder = save_adapter(deck.folder / f"medical-{seed}", seed=seed)
    body = {"lora_name": "medical", "lora_path": str(folder), **more}
    reply = httpx.post(f"{deck.url}{LOAD}", json=body)
    assert reply.status_code == 200, reply.text


def digests(deck: Deck) -> list[str]:
    versions = httpx.get(f"{deck.url}/api/adapters/medical").json()["versions"]
    return [version["digest"][:8] for version in versions]


@contextmanager
def streaming(deck: Deck, fingerprints: list[str] | None = None) -> Iterator[Iterator[str]]:
    """Begin a stream; give its pieces of text, of which the first has come, and note their fingerprints."""
    seen = fingerprints if fingerprints is not None else []

    def text(line: str) -> str:
        chunk = json.loads(line)
        seen.append(chunk["system_fingerprint"].partition("-")[2].partition("-")[2])
        return str(chunk["choices"][0]["text"])

    body = {"model": "medical", "prompt": "x" * 200, "max_tokens": 400, "stream": True}
    with httpx.stream("POST", f"{deck.url}/v1/completions", json=body) as reply:
        assert reply.headers["x-loradex-adapter"] == "medical@1"
        lines = (line.removeprefix("data: ") for line in reply.iter_lines() if line)
        yield (text(line) for line in lines if line != "[DONE]")


def test_a_stream_ends_on_the_version_that_it_began_with(deck: Deck) -> None:
    fingerprints: list[str] = []
    with streaming(deck, fingerprints) as pieces:
        first = next(pieces)
        load(deck, 2, load_inplace=True)
        reply = httpx.post(f"{deck.url}/v1/completions", json={"model": "medical", "prompt": "hi"})
        text = first + "".join(pieces)
    one, two = digests(deck)
    assert text == f"{one}: " + "x" * 200
    assert {each[:8] for each in fingerprints} == {one}
    assert reply.headers["x-loradex-adapter"] == "medical@2"
    assert reply.json()["choices"][0]["text"].startswith(two)
    assert eventually(lambda: len(deck.engine.resident()) == 1)
    assert deck.idle()


def test_immediate_switches_the_stream_when_it_is_asked_for(deck: Deck) -> None:
    fingerprints: list[str] = []
    with streaming(deck, fingerprints) as pieces:
        first = next(pieces)
        load(deck, 2, load_inplace=True, loradex_mode="immediate")
        text = first + "".join(pieces)
    one, two = digests(deck)
    # One digest as long as one version has spoken; both from the first piece of the second one on.
    named = list(dict.fromkeys(tuple(each[:8] for each in found.split(">")) for found in fingerprints))
    assert named == [(one,), (one, two)]
    assert len([each for each in fingerprints if ">" not in each]) == text.index("|")
    assert text.startswith(one)
    assert f"|{two}: x" in text
    assert text.endswith("x")
    assert eventually(deck.idle)


def test_a_whole_reply_names_every_version_that_spoke(deck: Deck) -> None:
    body = {"model": "medical", "prompt": "x" * 200, "max_tokens": 400}
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(httpx.post, f"{deck.url}/v1/completions", json=body)
        assert eventually(lambda: deck.engine.stats().running == 1)
        load(deck, 2, load_inplace=True, loradex_mode="immediate")
        reply = asked.result()
    assert reply.headers["x-loradex-adapter"] == "medical@1, medical@2"
    said = reply.json()["system_fingerprint"].partition("-")[2].partition("-")[2]
    assert [each[:8] for each in said.split(">")] == digests(deck)


def test_a_stream_goes_on_when_its_adapter_is_unloaded(deck: Deck) -> None:
    with streaming(deck) as pieces:
        first = next(pieces)
        httpx.post(f"{deck.url}/v1/unload_lora_adapter", json={"lora_name": "medical"}).raise_for_status()
        assert httpx.post(f"{deck.url}/v1/completions", json={"model": "medical", "prompt": "hi"}).status_code == 404
        text = first + "".join(pieces)
    assert text.endswith("x" * 200)
    assert eventually(lambda: not deck.engine.resident())
