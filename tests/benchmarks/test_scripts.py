"""The measurements that no command of `loradex bench` makes still run. Figures are only looked for, not at."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("numba")

from loradex.bench.result import read_result
from tests.engine.local import tiny

SCRIPTS = Path(__file__).parents[2] / "benchmarks"


def run(script: str, *arguments: object) -> str:
    command = [sys.executable, str(SCRIPTS / script), *map(str, arguments)]
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    ran = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_base("llama", tmp_path_factory.mktemp("deck") / "base").parent


def test_time_outside_kernels(base: Path, tmp_path: Path) -> None:
    file = tmp_path / "overhead.json"
    shape = ("--batch", 3, "--input", 4, "--output", 12)
    assert "outside kernels" in run("overhead.py", "--model", base, *shape, "--out", file)
    (row,) = read_result(file).rows
    assert row.what == "outside kernels"


@pytest.mark.slow
def test_peft(base: Path, tmp_path: Path) -> None:
    file = tmp_path / "peft.json"
    shape = ("--batch", 2, "--input", 4, "--output", 3, "--pairs", 1, "--python", sys.executable)
    assert "end to end" in run("peers/peft_mixed.py", "--model", base, *shape, "--out", file)
    assert read_result(file).rows


def test_the_lora_kernel() -> None:
    assert "2/2" in run("lora.py", "--pairs", 1, "--decks", "2/2")


def test_who_is_evicted() -> None:
    assert "lru" in run("eviction.py", "--requests", 200).lower()
