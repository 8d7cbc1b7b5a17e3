from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Loradex


def test_show_tells_value_and_source(loradex: Loradex, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORADEX_ENGINE__MAX_LORAS", "3")
    shown = loradex("config", "show", "--json").json
    assert shown["engine.max_loras"] == {
        "value": 3,
        "source": "environment",
        "variable": "LORADEX_ENGINE__MAX_LORAS",
    }
    assert "environment" in loradex("config", "show").out


def test_init_writes_a_file_once(loradex: Loradex, tmp_path: Path) -> None:
    assert loradex("config", "init").code == 0
    assert (tmp_path / "loradex.toml").is_file()
    assert loradex("config", "init").code == 1
    assert loradex("config", "init", "--force").code == 0
    assert loradex("config", "show", "--config", "loradex.toml").code == 0


def test_a_bad_setting_is_a_usage_error(loradex: Loradex, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORADEX_ENGIN__MAX_LORAS", "3")
    ran = loradex("config", "show")
    assert ran.code == 2
    assert "LORADEX_ENGINE__MAX_LORAS" in ran.err
