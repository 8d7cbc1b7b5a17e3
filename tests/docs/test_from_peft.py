"""The page for those who come from PEFT: both sides of it run, and say the same."""

from __future__ import annotations

import os
import re
import shlex
import shutil
from pathlib import Path

import pytest

import loradex as package
from tests.cli.conftest import Loradex, loradex

__all__ = ["loradex"]

DEMO = Path(package.__file__).parent / "assets" / "demo"
PAGE = (Path(__file__).parents[2] / "docs" / "from-peft.md").read_text(encoding="utf-8")


@pytest.fixture
def place(loradex: Loradex, tmp_path: Path) -> Path:
    os.symlink(DEMO / "base", tmp_path / "base")
    for adapter in (DEMO / "adapters").iterdir():
        shutil.copytree(adapter, tmp_path / adapter.name)
    return tmp_path


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def test_what_peft_says_is_what_is_said_here(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    names: dict[str, object] = {"__name__": "page"}
    said = []
    for snippet in blocks("python"):
        exec(compile(snippet, "docs/from-peft.md", "exec"), names)
        said.append(capfd.readouterr().out)
    theirs, ours, versions, mixes = said
    assert ours == theirs
    assert [line.partition(" -> ")[0] for line in ours.splitlines()] == ["medical", "legal", "technical", "base"]
    assert versions == "['medical@1', 'medical@2']\n"
    mixed, halved, first = mixes.splitlines()
    assert mixed.startswith("medical@2*0.7+legal@1*0.3 -> ")
    assert halved.startswith("medical@2*0.5 -> ")
    assert first == ours.splitlines()[0].replace("medical", "medical@1")


def test_its_commands_run(place: Path, loradex: Loradex) -> None:
    [script] = blocks("bash")
    for line in script.splitlines():
        ran = loradex(*shlex.split(line)[1:])
        assert ran.code == 0, (line, ran.err)


def test_every_row_of_the_table_has_two_sides() -> None:
    rows = [line for line in PAGE.partition("## Name by name")[2].splitlines() if line.startswith("| ")]
    assert len(rows) > 25
    assert all(len(re.sub(r"`[^`]*`", "x", row).strip("| ").split(" | ")) == 2 for row in rows)
