from __future__ import annotations

import shutil
import socket
from pathlib import Path

import pytest

from loradex.cli import checks
from loradex.registry.registry import Registry
from tests.cli.conftest import Loradex
from tests.server.serving import Deck


def found(ran: object) -> dict[str, dict[str, str]]:
    return {each["name"]: each for each in ran.json["checks"]}  # type: ignore[attr-defined]


def test_a_fresh_machine_is_fine(loradex: Loradex) -> None:
    ran = loradex("doctor", "--json")
    assert ran.code == 0
    names = {"python", "torch", "transformers", "threads", "memory", "disk", "home", "registry", "server"}
    assert set(found(ran)) == names
    assert "python" in loradex("doctor").out


def test_the_server_is_found(loradex: Loradex, deck: Deck) -> None:
    assert "tiny-base" in found(loradex("doctor", "--json"))["server"]["detail"]


def test_damage_is_found_and_named(loradex: Loradex, deck: Deck, tmp_path: Path) -> None:
    loradex("adapter", "add", "medical", deck.folder / "medical")
    home = tmp_path / "home"
    weights = next(home.rglob("adapter_model.safetensors"))
    weights.chmod(0o644)
    weights.write_bytes(weights.read_bytes()[:-8])
    ran = loradex("doctor", "--home", home, "--json")
    assert ran.code == 1
    assert "medical@1" in found(ran)["registry"]["detail"]
    assert loradex("doctor", "--home", home, "-q").out == "registry\n"


def test_a_home_that_is_a_file_fails(loradex: Loradex, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    ran = loradex("doctor", "--home", tmp_path / "file" / "x", "--json")
    assert ran.code == 1
    assert found(ran)["home"]["fix"]


def test_a_busy_port_is_a_warning(loradex: Loradex, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        monkeypatch.setenv("LORADEX_SERVER__PORT", str(other.getsockname()[1]))
        check = found(loradex("doctor", "--json"))["server"]
    assert check["status"] == "warn"
    assert "--port" in check["fix"]


def test_little_room_is_a_warning(loradex: Loradex, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "available_memory", lambda: 1 << 20)
    usage = shutil.disk_usage("/")._replace(free=1 << 20)
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda path: usage)
    monkeypatch.setenv("LORADEX_ENGINE__THREADS", "4096")
    seen = found(loradex("doctor", "--json"))
    assert [seen[name]["status"] for name in ("memory", "disk", "threads")] == ["warn"] * 3


def test_an_unopened_registry_stays_unopened(loradex: Loradex, tmp_path: Path) -> None:
    loradex("doctor", "--home", tmp_path / "none")
    assert not (tmp_path / "none").exists()
    Registry(tmp_path / "none").close()
    assert loradex("doctor", "--home", tmp_path / "none").code == 0
