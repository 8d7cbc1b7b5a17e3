from __future__ import annotations

from datetime import UTC, datetime, timedelta

from loradex.cli.resident import _ago
from tests.cli.conftest import Loradex
from tests.server.serving import Deck


def test_ps_load_unload(loradex: Loradex, deck: Deck) -> None:
    assert "No adapter is in memory" in loradex("ps").err
    loradex("adapter", "add", "medical", deck.folder / "medical")
    assert "medical" in loradex("ps").out
    assert loradex("ps", "-q").out == "medical@1\n"
    assert loradex("unload", "medical", "--json").json == {"unloaded": "medical"}
    assert loradex("ps", "--json").json == {"resident": [], "invalid": []}
    assert "out of memory" in loradex("unload", "medical", "--mode", "drain", "--timeout", "1s").out
    assert "--timeout" in loradex("unload", "medical", "--timeout", "soon").err
    assert loradex("unload", "medical", "--mode", "gently").code == 2
    assert loradex("load", "medical@1", "-q").out == "medical@1\n"
    assert loradex("load", "nobody").code == 3
    assert loradex("pin", "medical", "-q").out == "medical@1\n"
    assert "pinned" in loradex("ps").out
    refused = loradex("unload", "medical")
    assert refused.code != 0
    assert "loradex unpin medical" in refused.err
    assert loradex("unpin", "medical", "--json").json == {"unpinned": "medical"}
    assert loradex("unpin", "medical").code == 3


def test_without_a_server(loradex: Loradex) -> None:
    for argv in (
        ["ps"],
        ["load", "x"],
        ["unload", "x"],
        ["pin", "x"],
        ["unpin", "x"],
        ["run", "x", "y"],
        ["chat", "x"],
    ):
        ran = loradex(*argv)
        assert ran.code == 4
        assert "loradex serve" in ran.err


def test_points_in_time_as_people_say_them() -> None:
    now = datetime.now(UTC)
    assert _ago(None) == "never"
    assert _ago((now - timedelta(minutes=4, seconds=10)).isoformat()) == "4 minutes ago"
    assert _ago((now - timedelta(hours=1, seconds=10)).timestamp()) == "1 hour ago"
