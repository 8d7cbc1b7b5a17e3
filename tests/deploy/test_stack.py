"""`make up`, `health`, `hotfix`, `benchmark` and `down` as a process of this machine."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from loradex.server.run import _free_port

ROOT = Path(__file__).parents[2]
Stack = Callable[[str], subprocess.CompletedProcess[str]]


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    given = {"STACK": "local", "STALL": "60s", "PORT": str(_free_port("127.0.0.1")), "RUN": str(tmp_path / "run")}
    given |= {"LORADEX": f"{sys.executable} -m loradex", "PYTHON": sys.executable}

    def run(what: str) -> subprocess.CompletedProcess[str]:
        command = [str(ROOT / "deploy" / "stack"), what]
        environ = os.environ | given
        return subprocess.run(
            command, env=environ, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
        )

    yield run
    run("down")


@pytest.mark.slow
def test_the_life_of_a_stack_without_docker(stack: Stack, tmp_path: Path) -> None:
    up = stack("up")
    assert up.returncode == 0, up.stderr
    assert "ready at http://127.0.0.1:" in up.stdout
    assert stack("health").returncode == 0
    again = stack("up")
    assert again.returncode == 1
    assert "make down" in again.stderr
    for what, name in (("hotfix", "hotfix"), ("benchmark", "swap")):
        ran = stack(what)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        assert (tmp_path / "run" / "bench" / f"{name}.json").is_file()
    page = (tmp_path / "run" / "bench" / "report" / "report.md").read_text()
    assert "| every swap succeeded | yes |" in page
    assert "| load |" in page
    assert stack("down").stdout == "stopped\n"
    assert not (tmp_path / "run" / "server.pid").exists()


def test_without_a_server(stack: Stack) -> None:
    health = stack("health")
    assert health.returncode == 1
    assert "make up" in health.stderr
    assert stack("down").stdout == "no server runs\n"
    unknown = stack("sideways")
    assert unknown.returncode == 1
    assert "up, health, hotfix, benchmark or down" in unknown.stderr
