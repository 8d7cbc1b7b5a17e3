"""`serve` as a process of its own: what it says, whom it serves, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from loradex import errors
from loradex.cli.serve import try_it
from loradex.client.client import Client
from tests.cli.conftest import Loradex
from tests.server.serving import save_adapter


@contextmanager
def serving(tmp_path: Path, *argv: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """Start `serve --json` on a free port; yield the process and what it said when it was ready."""
    command = [
        sys.executable,
        "-m",
        "loradex",
        "serve",
        "models/tiny-base",
        "--engine",
        "fake",
        "--port",
        "0",
        "--json",
    ]
    process = subprocess.Popen(
        [*command, *argv], cwd=tmp_path, env=os.environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    said = ""
    try:
        for line in process.stdout:
            said += line
            if line == "}\n":
                break
        yield process, json.loads(said or "{}")
    finally:
        process.kill()
        process.communicate()


def test_a_server_from_start_to_end(tmp_path: Path) -> None:
    save_adapter(tmp_path / "medical")
    save_adapter(tmp_path / "legal", seed=1)
    flags = ("--lora-modules", "medical=medical", "legal=legal", "--enable-lora", "--allow_dir", str(tmp_path))
    with serving(tmp_path, *flags, "--api-key", "boss") as (process, said):
        assert said["model"] == "tiny-base"
        assert said["adapters"] == ["legal", "medical"]
        with Client(said["url"], api_key="boss") as client:
            assert client.chat("legal", "hello").adapter == "legal@1"
            assert client.adapters.get("medical").versions[0].source == str(tmp_path / "medical")
            assert client.adapters.add("medical", tmp_path / "legal").version == 2
        with Client(said["url"]) as stranger, pytest.raises(errors.AuthenticationFailed):
            stranger.info()
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 0


def test_adapters_of_an_earlier_run_are_served_again(tmp_path: Path) -> None:
    save_adapter(tmp_path / "medical")
    with serving(tmp_path, "--adapter", "medical=medical") as (process, _):
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 0
    with serving(tmp_path) as (_, said):
        assert said["adapters"] == ["medical"]


def test_a_refused_adapter_ends_it_with_the_whole_report(loradex: Loradex, tmp_path: Path) -> None:
    save_adapter(tmp_path / "good")
    save_adapter(tmp_path / "broken", seed=1, broken=True)
    argv = ("serve", "models/tiny-base", "--engine", "fake", "--port", 0, "--adapter", "a=good", "--adapter")
    one = loradex(*argv, "b=broken")
    assert one.code == 1
    assert "NaN" in one.err
    two = loradex(*argv, "b=broken", "--adapter", "c=nowhere")
    assert two.code == 1
    assert "2 of 3 adapters" in two.err
    assert "b: " in two.err
    assert "c: " in two.err
    assert two.out == ""


@pytest.mark.parametrize(
    ("argv", "code", "says"),
    [
        ((), 2, "loradex serve MODEL"),
        (("m", "--engine", "fale"), 2, "fake"),
        (("m", "--engine", "fake", "--adapter", "x"), 2, "NAME=PATH"),
        (("m", "--engine", "fake", "--port", "99999"), 2, "65535"),
        (("m", "--engine", "fake", "--max-loras", "none"), 2, "engine.max_loras"),
        (("m", "--engine", "fake", "--host", "203.0.113.1"), 2, "--host"),
    ],
)
def test_what_is_wrong_is_said_at_once(loradex: Loradex, argv: tuple[str, ...], code: int, says: str) -> None:
    ran = loradex("serve", *argv)
    assert ran.code == code
    assert says in ran.err


def test_the_command_to_try_is_one_line_that_a_shell_understands() -> None:
    line = try_it("http://127.0.0.1:1", "medical", locked=True)
    assert "Bearer KEY" in line
    assert "\n" not in line
    ran = subprocess.run(
        ["bash", "-c", f'curl() {{ printf %s "${{@: -1}}"; }}; {line}'], capture_output=True, check=True
    )
    assert json.loads(ran.stdout)["model"] == "medical"
