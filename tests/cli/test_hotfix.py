"""`loradex hotfix-test` against the real server: it passes where the promise is kept, and fails where it is not."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from loradex.bench.hotfix import Hotfix, hotfix
from loradex.bench.report import report
from loradex.bench.result import read_result
from loradex.client.client import Adapters, Client
from loradex.errors import Overloaded
from tests.cli.conftest import Loradex
from tests.server.serving import Deck, eventually, save_adapter, served

FEW = (
    "--stall",
    "60s",
    "--streams",
    3,
    "--swaps",
    3,
    "--every",
    "10ms",
    "--tokens",
    40,
    "--prompt",
    "hello there",
    "--prompt",
    "you",
)


@pytest.fixture
def deck(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Deck]:
    with served(tmp_path, tokens_per_second=500) as deck:
        save_adapter(deck.folder / "one")
        save_adapter(deck.folder / "two", seed=1)
        monkeypatch.setenv("LORADEX_URL", deck.url)
        yield deck


@pytest.mark.parametrize("means", ["fingerprint", "text"])
def test_streams_that_end_as_they_began_pass(loradex: Loradex, deck: Deck, tmp_path: Path, means: str) -> None:
    how = ["--by-text"] if means == "text" else []
    file = tmp_path / "hotfix.json"
    ran = loradex("hotfix-test", deck.folder / "one", deck.folder / "two", *FEW, *how, "--json", "--out", file)
    assert ran.code == 0, ran.out + ran.err
    assert ran.json["ok"]
    assert all(check["ok"] for check in ran.json["raw"]["checks"])
    assert ran.json["raw"]["means"] == means
    assert [swap["version"] for swap in ran.json["raw"]["swaps"]] == [2, 1, 2]
    assert {each["version"] for each in ran.json["raw"]["streams"]} == {1, 2}
    assert loradex("adapter", "ls", "-q").out == "", "the name is gone, with its versions"
    made = report([file], None, tmp_path / "report")
    assert "| every swap succeeded | yes | 3 of 3 |" in made.text
    assert {path.name for path in made.files} == {"report.md", "ratios.svg", "hotfix-test.svg", "hotfix-test-time.svg"}
    assert "hotfix-test-time.svg" in made.files[0].read_text()
    assert read_result(file).kind == "hotfix"


@pytest.mark.parametrize("means", ["fingerprint", "text"])
def test_streams_that_switch_fail(loradex: Loradex, deck: Deck, means: str) -> None:
    how = ["--by-text"] if means == "text" else []
    ran = loradex("hotfix-test", deck.folder / "one", deck.folder / "two", *FEW, *how, "--mode", "immediate", "--json")
    assert ran.code == 1
    assert not ran.json["ok"]
    failed = [check["what"] for check in ran.json["raw"]["checks"] if not check["ok"]]
    assert failed == [f"every answer held one version (by {means})"]
    mixed = [each for each in ran.json["raw"]["streams"] if each.get("mixed")]
    assert all(each["swaps"] for each in mixed)
    assert "|" in mixed[0]["text"], "the fake engine says where an answer went on under other weights"


def test_for_people(loradex: Loradex, deck: Deck) -> None:
    ran = loradex("hotfix-test", deck.folder / "one", deck.folder / "two", *FEW, "--mode", "immediate")
    assert ran.code == 1
    for text in ("NO", "every answer finished", "p99 wait", "left its version after"):
        assert text in ran.out


def test_nothing_is_touched_where_it_cannot_begin(loradex: Loradex, deck: Deck) -> None:
    one = deck.folder / "one"
    loradex("adapter", "add", "hotfix-test", one)
    taken = loradex("hotfix-test", one, deck.folder / "two")
    assert taken.code == 1
    assert "loradex adapter rm hotfix-test" in taken.err
    assert loradex("adapter", "ls", "-q").out == "hotfix-test\n"
    assert loradex("hotfix-test", one).code == 2
    assert loradex("hotfix-test", one, one, "--stall", "soon").code == 2
    assert loradex("hotfix-test", one, deck.folder / "none", "--name", "x").code == 3
    alike = loradex("hotfix-test", one, one, "--name", "x", "--tokens", 4)
    assert alike.code == 2
    assert "--prompt" in alike.err
    assert loradex("adapter", "ls", "-q").out == "hotfix-test\n"


class Refusing:
    """The server's verbs, but every add from the fourth on is refused: those before learn what the versions say."""

    def __init__(self, verbs: Adapters) -> None:
        self._verbs = verbs
        self.adds = 0
        self.list, self.remove = verbs.list, verbs.remove

    def add(self, name: str, path: str, *, mode: str = "drain") -> object:
        self.adds += 1
        if self.adds > 3:
            raise Overloaded("no room")
        return self._verbs.add(name, path, mode=mode)


async def test_a_swap_that_is_refused_is_seen_and_the_name_is_taken_away(deck: Deck) -> None:
    with Client(deck.url) as client:
        versions = str(deck.folder / "one"), str(deck.folder / "two")
        given = Hotfix(deck.url, "x", versions, streams=2, swaps=2, every=0.0, tokens=20, bound=60.0)
        result = await hotfix(given, Refusing(client.adapters), lambda stage, share: None)
        failed = [check for check in result.raw["checks"] if not check["ok"]]
        assert [(each["what"], each["found"]) for each in failed] == [("every swap succeeded", "0 of 2: no room")]
        assert client.adapters.list() == []


def test_who_is_ended_cleans_up(deck: Deck, tmp_path: Path) -> None:
    words = ("hotfix-test", deck.folder / "one", deck.folder / "two", "--swaps", 10000, "--every", "10ms")
    command = [sys.executable, "-m", "loradex", *map(str, words)]
    with Client(deck.url) as client, subprocess.Popen(command, cwd=tmp_path) as running:
        assert eventually(lambda: any(each.current == 2 for each in client.adapters.list()), 60)
        running.terminate()
        assert running.wait(30) == 130
        assert client.adapters.list() == []


def test_no_server(loradex: Loradex) -> None:
    assert loradex("hotfix-test").code == 4
