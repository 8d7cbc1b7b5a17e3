from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Loradex
from tests.client.test_vllm import hiding
from tests.server.serving import Deck, save_adapter, served


def test_the_life_of_an_adapter(loradex: Loradex, deck: Deck) -> None:
    assert loradex("adapter", "add", "medical", deck.folder / "medical").code == 0
    added = loradex("adapter", "add", "medical", deck.folder / "medical2", "--json").json
    assert (added["version"], added["previous"]["version"]) == (2, 1)
    assert "medical" in loradex("adapter", "ls").out
    assert loradex("adapter", "ls", "-q").out == "medical\n"
    assert loradex("--json", "adapter", "list").json["adapters"][0]["current"] == 2
    assert loradex("adapter", "show", "medical", "-q").out == "medical@1\nmedical@2\n"
    assert "2 *" in loradex("adapter", "show", "medical").out
    assert loradex("adapter", "rollback", "medical", "-q").out == "medical@1\n"
    assert loradex("adapter", "promote", "medical", 2, "--alias", "canary", "--json").json["version"] == 2
    assert loradex("adapter", "rm", "medical", "--version", 2).code == 1  # an alias points to it
    actions = [each["action"] for each in loradex("adapter", "history", "medical", "--json").json["history"]]
    assert actions == ["promote", "rollback", "add", "add"]
    assert loradex("adapter", "rm", "medical").out == "removed medical\n"
    assert loradex("adapter", "ls", "--json").json == {"adapters": [], "invalid": []}


def test_an_alias_is_removed_and_its_version_stays(loradex: Loradex, deck: Deck) -> None:
    for name in ("medical", "medical2"):
        assert loradex("adapter", "add", "medical", deck.folder / name).code == 0
    assert loradex("adapter", "promote", "medical", "1", "--alias", "prod").code == 0
    held = loradex("adapter", "rm", "medical", "--version", "1", "--json")
    assert "rm medical --alias prod" in held.error["hint"]
    assert loradex("adapter", "rm", "medical", "--version", "1", "--alias", "prod").code == 2
    assert loradex("adapter", "rm", "medical", "--alias", "prod", "-q").out == "medical@prod\n"
    assert loradex("adapter", "rm", "medical", "--alias", "prod").code == 3
    found = loradex("adapter", "show", "medical", "--json").json
    assert (found["aliases"], len(found["versions"])) == ({}, 2)


def test_no_adapters_yet(loradex: Loradex, deck: Deck) -> None:
    ran = loradex("adapter", "ls")
    assert (ran.code, ran.out) == (0, "")
    assert "loradex adapter add" in ran.err


def test_a_refused_adapter_shows_every_problem_with_its_fix(loradex: Loradex, deck: Deck) -> None:
    for verb in (["add", "x"], ["check"]):
        ran = loradex("adapter", *verb, deck.folder / "broken")
        assert ran.code == 1
        lines = ran.err.splitlines()
        assert lines[0].startswith("error: ")
        assert lines[1].startswith("  why: ")
        assert "NaN" in lines[1]
        assert lines[2].startswith("  fix: ")
    error = loradex("adapter", "add", "x", deck.folder / "broken", "--json").error
    assert error["code"] == "adapter_invalid"
    assert error["problems"][0]["fix"]


def test_check_shows_what_it_is_and_what_it_would_take(loradex: Loradex, deck: Deck) -> None:
    out = loradex("adapter", "check", deck.folder / "medical").out
    for words in ("fits yes", "format peft", "memory 4.5 KiB in the engine", "load unknown before the first one"):
        assert words in " ".join(out.split())
    assert "MODULE COUNT INPUTS OUTPUTS RANK SCALING" in " ".join(out.split())
    assert "q_proj 2 32 32 4 2" in " ".join(out.split())
    loradex("adapter", "add", "medical", deck.folder / "medical")
    assert "load about" in " ".join(loradex("adapter", "check", deck.folder / "medical2").out.split())


def test_check_says_yes_or_no_in_json_and_by_exit_code(loradex: Loradex, deck: Deck) -> None:
    good = loradex("adapter", "check", deck.folder / "medical", "--json")
    bad = loradex("adapter", "check", deck.folder / "broken", "--json")
    assert (good.code, good.json["ok"]) == (0, True)
    assert (bad.code, bad.json["ok"]) == (1, False)


@pytest.mark.parametrize(
    ("argv", "code", "says"),
    [
        (["adapter", "show", "medicol"], 3, "medicol"),
        (["adapter", "add", "x", "adapters/nowhere"], 3, "nowhere"),
        (["adapter", "add", "x", "."], 1, "--allow-dir"),
        (["adapter", "add", "no/good", "."], 2, "no/good"),
        (["adapter", "promote", "x", "one"], 2, "VERSION"),
        (["adapter", "add", "x"], 2, "SOURCE"),
        (["adapter", "rollback", "x", "--mode", "sometimes"], 2, "mode"),
    ],
)
def test_exit_codes(loradex: Loradex, deck: Deck, argv: list[str], code: int, says: str) -> None:
    ran = loradex(*argv)
    assert ran.code == code
    assert says in ran.err
    assert ran.out == ""


def test_a_named_server_must_answer(loradex: Loradex) -> None:
    ran = loradex("adapter", "ls", "--url", "http://127.0.0.1:9")
    assert ran.code == 4
    assert "loradex serve" in ran.err


def test_a_base_means_work_without_a_server(loradex: Loradex, tmp_path: Path) -> None:
    ran = loradex("adapter", "check", tmp_path, "--base", tmp_path / "nothing")
    assert ran.code == 2
    assert "config.json" in ran.err


def test_a_canary_is_begun_told_and_ended(loradex: Loradex, deck: Deck) -> None:
    loradex("adapter", "add", "medical", deck.folder / "medical")
    ran = loradex("adapter", "add", "medical", deck.folder / "medical2", "--canary", 10)
    assert ran.out == "medical@2 answers 10 % of the requests for medical\n"
    ran = loradex("adapter", "canary", "medical", "1=75", "2=25")
    assert ran.out == "medical: version 1 answers 75 %, version 2 answers 25 %; it goes back to version 1\n"
    assert "canary 1=75 2=25" in loradex("adapter", "ls").out
    assert "25 %" in loradex("adapter", "show", "medical").out
    assert loradex("adapter", "canary", "medical", "2=50", "--json").json["canary"] == {"1": 50.0, "2": 50.0}
    assert "1=75 2=25" in loradex("adapter", "history", "medical").out
    assert loradex("adapter", "canary", "medical", "--end").out == "medical is version 1\n"
    assert loradex("adapter", "canary", "medical", "--end").code == 3


@pytest.mark.parametrize("words", [[], ["3"], ["3=x"], ["3=1", "3=2"], ["--end", "3=1"]])
def test_shares_that_cannot_be_read_are_a_usage_error(loradex: Loradex, words: list[str]) -> None:
    ran = loradex("adapter", "canary", "medical", *words)
    assert ran.code == 2
    assert "3=90 4=10" in ran.err


def test_a_shadow_is_begun_shown_and_ended(loradex: Loradex, deck: Deck) -> None:
    loradex("adapter", "add", "medical", deck.folder / "medical")
    loradex("adapter", "add", "medical", deck.folder / "medical2", "--canary", 0)
    ran = loradex("adapter", "shadow", "medical", 2, "--percent", 10)
    assert ran.out == "medical@2 gets copies of 10 % of the requests\n"
    assert "copies of 10 %" in loradex("adapter", "show", "medical").out
    assert loradex("adapter", "show", "medical", "--json").json["shadow"] == {"version": 2, "percent": 10.0}
    assert loradex("adapter", "shadow", "medical", "--end", "--json").json["shadow"] is None
    assert loradex("adapter", "shadow", "medical", "--end").code == 3
    assert loradex("adapter", "shadow", "medical").code == 2


def test_against_a_vllm_server(loradex: Loradex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hiding(monkeypatch, "/api/")
    with served(tmp_path) as deck:
        monkeypatch.setenv("LORADEX_URL", deck.url)
        one, two = save_adapter(deck.folder / "one"), save_adapter(deck.folder / "two", seed=1)
        assert loradex("adapter", "load", "medical", one, "-q").out == "medical\n"
        replaced = loradex("adapter", "add", "medical", two)
        assert replaced.out == "medical is loaded\n"
        assert "in mid-sentence" in replaced.err
        assert loradex("adapter", "ls", "-q").out == "medical\n"
        assert loradex("adapter", "ls", "--json").json["adapters"][0]["versions"][0]["source"] == str(two)
        assert "adapters/two" in loradex("adapter", "show", "medical").out
        for words in (["adapter", "rollback", "medical"], ["ps"], ["adapter", "add", "x", one, "--upload"]):
            refused = loradex(*words)
            assert refused.code == 2
            assert "loradex" in refused.err or "folder" in refused.err
        assert loradex("adapter", "rm", "medical").code == 0
        assert loradex("adapter", "rm", "medical").code == 3
