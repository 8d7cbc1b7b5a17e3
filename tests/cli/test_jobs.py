from __future__ import annotations

from tests.cli.conftest import Loradex
from tests.server.serving import Deck


def test_a_job_is_begun_listed_and_waited_for(loradex: Loradex, deck: Deck) -> None:
    assert loradex("jobs", "ls").out == ""
    begun = loradex("adapter", "add", "medical", deck.folder / "medical", "--no-wait", "-q").out.strip()
    assert loradex("jobs", "show", begun, "--wait").code == 0
    found = loradex("jobs", "show", begun, "--json").json
    assert (found["state"], found["result"]["version"]) == ("done", 1)
    assert "medical@1" in loradex("jobs", "show", begun).out
    assert begun in loradex("jobs", "ls").out
    assert loradex("jobs", "cancel", begun).code == 1
    assert loradex("jobs", "show", "nobody").code == 3


def test_files_are_sent_and_not_waited_for(loradex: Loradex, deck: Deck) -> None:
    begun = loradex("adapter", "add", "medical", deck.folder / "medical", "--upload", "--no-wait", "-q").out.strip()
    assert loradex("jobs", "show", begun, "--wait", "--json").json["result"]["version"] == 1


def test_a_job_that_failed_says_why(loradex: Loradex, deck: Deck) -> None:
    begun = loradex("adapter", "add", "x", deck.folder / "broken", "--no-wait", "--json").json["id"]
    ran = loradex("jobs", "show", begun, "--wait")
    assert ran.code == 1
    assert "NaN" in ran.err
    ran = loradex("jobs", "show", begun, "--json")
    assert ran.code == 1
    assert ran.json["error"]["code"] == "adapter_invalid"
