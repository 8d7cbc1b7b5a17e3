"""kill -9 at each point of a change: what was acknowledged is there, the rest is as before, nothing is left lying."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from .killing import VERBS

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder in memory where there is one: every trial syncs dozens of times, and no disk is pulled out here."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as name:
        yield Path(name)


def killed(folder: Path, *, points: int, seed: int) -> Counter[str]:
    """Run the trials in a process that may fork; return how many there were, by kind and end."""
    asked = json.dumps({"folder": str(folder), "verbs": [], "points": points, "seed": seed})
    command = [sys.executable, "-m", "tests.faults.killing"]
    ran = subprocess.run(command, input=asked, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    trials = [json.loads(line) for line in ran.stdout.splitlines()]
    assert [trial for trial in trials if trial["wrong"]] == [], ran.stderr
    assert {trial["verb"] for trial in trials if trial["killed"]} == set(VERBS)
    return Counter(f"{trial['kind']} {'killed' if trial['killed'] else 'done'}" for trial in trials)


def test_a_process_killed_anywhere_leaves_the_old_state_or_the_new_one(folder: Path) -> None:
    counts = killed(folder, points=2, seed=1)
    assert counts["operation killed"] == 2 * len(VERBS)
    assert counts["byte killed"] > len(VERBS)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_every_point(folder: Path, seed: int) -> None:
    counts = killed(folder, points=0, seed=seed)
    assert counts["operation killed"] > 20 * len(VERBS)
    assert counts["operation done"] == 0
