from __future__ import annotations

import io

import pytest

from tests.cli.conftest import Loradex
from tests.server.serving import Deck


@pytest.fixture(autouse=True)
def medical(loradex: Loradex, deck: Deck) -> str:
    return str(loradex("adapter", "add", "medical", deck.folder / "medical", "--json").json["digest"])


def test_run_streams_the_answer_to_stdout(loradex: Loradex, medical: str) -> None:
    ran = loradex("run", "medical", "hello there")
    assert ran.code == 0
    assert ran.out.startswith(f"{medical[:8]}: user: hello there")
    assert "medical@1" in ran.err


def test_run_in_json(loradex: Loradex) -> None:
    answer = loradex("run", "base", "hello", "--json").json
    assert answer["adapter"] == "base"
    assert answer["text"].startswith("base: ")


def test_run_reads_standard_input(loradex: Loradex, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("from a pipe"))
    assert "from a pipe" in loradex("run", "base", "-", "--system", "be brief").out


def test_run_with_an_unknown_model(loradex: Loradex) -> None:
    ran = loradex("run", "medicol", "hello")
    assert ran.code == 3
    assert "medical" in ran.err
    assert ran.out == ""


def test_chat(loradex: Loradex, medical: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = "hello\n/adapter nobody\n/adapter base\nagain\n/reset\nanew\n/what\n/quit\nnever heard\n"
    monkeypatch.setattr("sys.stdin", io.StringIO(lines))
    ran = loradex("chat", "medical")
    assert ran.code == 0
    assert f"{medical[:8]}: user: hello" in ran.out
    assert "user: again" in ran.out
    assert ran.out.split("base: ")[-1].startswith("user: anew")
    assert "never heard" not in ran.out
    assert "nobody" in ran.err


def test_mixes(loradex: Loradex, deck: Deck, medical: str, monkeypatch: pytest.MonkeyPatch) -> None:
    legal = str(loradex("adapter", "add", "legal", deck.folder / "medical2", "--json").json["digest"])
    members = sorted([(medical, "*0.7"), (legal, "*0.3")])
    label = "+".join(digest[:8] + weight for digest, weight in members)
    ran = loradex("run", "medical*0.7+legal*0.3", "hello")
    assert ran.out.startswith(f"{label}: user: hello")
    assert "medical@1*0.7+legal@1*0.3" in ran.err
    assert loradex("run", "medical*0.7+medical", "hello").code == 2
    lines = "/adapter medical+lgal\n/adapter medical*x\n/adapter base:medical*0.7+legal*0.3\nhello\n"
    monkeypatch.setattr("sys.stdin", io.StringIO(lines))
    ran = loradex("chat", "medical")
    assert "lgal" in ran.err
    assert "'x' is no weight" in ran.err
    assert f"{label}: user: hello" in ran.out


def test_chat_ends_with_its_input(loradex: Loradex, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert loradex("chat", "base").code == 0


def test_chat_with_nobody_ends_at_once(loradex: Loradex) -> None:
    assert loradex("chat", "nobody").code == 3
