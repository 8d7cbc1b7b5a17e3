from __future__ import annotations

import json

from tests.cli.conftest import Loradex
from tests.server.serving import Deck


def words(text: str) -> str:
    return " ".join(text.split())


def test_show_tells_versions_and_all_of_the_one_that_answers(loradex: Loradex, deck: Deck) -> None:
    for source in ("medical", "medical2"):
        loradex("adapter", "add", "medical", deck.folder / source)
    loradex("run", "medical", "hello")
    out = words(loradex("adapter", "show", "medical").out)
    for said in ("2 *", "medical@2", "base", "rank 4", "modules q_proj, v_proj", "r=4", "target_modules=q_proj,v_proj"):
        assert said in out
    assert "tier device (4.5 KiB in the engine)" in out
    assert "requests 1, 0 errors, " in out
    assert "first token after" in out
    assert "1 loads, the last in" in out


def test_show_tells_of_another_version(loradex: Loradex, deck: Deck) -> None:
    for source in ("medical", "medical2"):
        loradex("adapter", "add", "medical", deck.folder / source)
    out = words(loradex("adapter", "show", "medical", "--version", 1).out)
    assert "medical@1" in out
    assert "requests 0, 0 errors" in out
    ran = loradex("adapter", "show", "medical", "--version", 7)
    assert ran.code == 3
    assert "Its versions are 1, 2" in ran.err


def test_show_in_json_has_the_configuration_where_a_list_has_not(loradex: Loradex, deck: Deck) -> None:
    loradex("adapter", "add", "medical", deck.folder / "medical")
    (version,) = loradex("adapter", "show", "medical", "--json").json["versions"]
    assert version["config"] == json.loads((deck.folder / "medical" / "adapter_config.json").read_text())
    assert version["tier"] == "device"
    assert version["device_bytes"] > 0
    assert {"loads", "load_seconds", "evictions", "requests", "errors", "output_tokens"} <= version.keys()
    (listed,) = loradex("adapter", "ls", "--json").json["adapters"]
    assert not listed["versions"][0]["config"]
