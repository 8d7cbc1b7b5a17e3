"""The snippets of the library page run one after another, as a reader types them; they are those of both systems."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest

import loradex
from loradex.adapters.base_model import read_model_info
from loradex.adapters.formats.convert import convert

ROOT = Path(__file__).parents[2]
DEMO = Path(loradex.__file__).parent / "assets" / "demo"


ISSUES = (
    ("gone: it does not exist", "Give the folder"),
    ("adapter_config.json is not JSON", "adapter check"),
    ("LoRA rank 16 is greater than max_lora_rank 8. (Make the `LLM` with `max_lora_rank=16`", "adapter check"),
    ("fp8 weights are not computed on cpu", "int8"),
)
"""What the page says of each mistake: a part of the message, and of the fix."""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as the page has it, in which the snippets run."""
    os.symlink(DEMO / "base", tmp_path / "base")
    for adapter in (DEMO / "adapters").iterdir():
        shutil.copytree(adapter, tmp_path / adapter.name)
    convert(tmp_path / "medical", "nemo", tmp_path / "nemo", read_model_info(DEMO / "base"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_snippet_of_the_page_runs(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "docs" / "library.md").read_text(encoding="utf-8")
    said, names = [], {"__name__": "page"}
    for snippet in re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL):
        exec(compile(snippet, "docs/library.md", "exec"), names)
        said.append(capsys.readouterr().out)
    one, mixed, versions, _, tasks, nemo, issues = said
    assert one.startswith("medical@1 ")
    assert [line.partition(" ->")[0] for line in mixed.splitlines()] == ["medical@1", "legal@1", "technical@1", "base"]
    assert "between 60 and 100 beats per minute" in mixed.splitlines()[0]
    assert versions == "['medical@1', 'medical@2']\n"
    assert tasks == "['task-1@1', 'task-2@1']\n"
    assert nemo.startswith("nemo-task@1 ")
    told = [line.split(" | ") for line in issues.splitlines()]
    assert [code for code, *_ in told] == [
        "adapter_files_not_found",
        "adapter_invalid",
        "adapter_invalid",
        "config_invalid",
    ]
    for (_, message, hint), (says, fix) in zip(told, ISSUES, strict=True):
        assert says in message
        assert fix in hint
