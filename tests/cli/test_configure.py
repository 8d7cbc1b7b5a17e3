from __future__ import annotations

from pathlib import Path

from tests.cli.conftest import Loradex
from tests.server.serving import Deck


def test_set_show_and_clear(loradex: Loradex, deck: Deck) -> None:
    folder = deck.folder / "medical"
    loradex(
        "adapter", "add", "medical", folder, "--system", "Be one.", "--sampling", "temperature=0.2", "--stop", "END"
    )
    shown = loradex("adapter", "show", "medical", "--json").json["versions"][0]["defaults"]
    assert shown == {"system": "Be one.", "sampling": {"temperature": 0.2}, "stop": ["END"]}
    ran = loradex("adapter", "set", "medical", "--sampling", "top_k=5", "--stop", "")
    assert "medical@1 has defaults for: system, sampling" in ran.out
    out = loradex("adapter", "show", "medical").out
    assert "Be one." in out
    assert "temperature=0.2 top_k=5" in out
    assert loradex("adapter", "set", "medical", "--clear", "-q").out == "medical@1\n"
    assert loradex("adapter", "show", "medical", "--json").json["versions"][0]["defaults"] == {}


def test_what_is_wrong_is_said(loradex: Loradex, deck: Deck, tmp_path: Path) -> None:
    loradex("adapter", "add", "medical", deck.folder / "medical")
    for argv, said in (
        ([], "Nothing is set"),
        (["--sampling", "temperature"], "NAME=NUMBER"),
        (["--sampling", "temperature=hot"], "NAME=NUMBER"),
        (["--sampling", "temperature=9"], "temperature is 9"),
        (["--chat-template", str(tmp_path / "no")], "cannot be read"),
        (["--system", "x", "--version", "9"], "no version 9"),
    ):
        ran = loradex("adapter", "set", "medical", *argv)
        assert ran.code != 0
        assert said in ran.err
