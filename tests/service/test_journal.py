from __future__ import annotations

import json
import stat
from pathlib import Path

from loradex.service.journal import Journal


def test_lines_are_added_and_the_files_do_not_grow_past_the_limit(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "shadows", 2000)
    for number in range(200):
        journal.write("medical", {"number": number, "text": "é" * 20})
    files = sorted((tmp_path / "shadows").iterdir())
    assert [path.name for path in files] == ["medical.jsonl", "medical.old.jsonl"]
    assert 900 < sum(path.stat().st_size for path in files) <= 2000
    lines = [json.loads(line) for path in reversed(files) for line in path.read_text().splitlines()]
    numbers = [line["number"] for line in lines]
    assert numbers == list(range(numbers[0], 200))


def test_a_line_that_is_too_long_is_left_out(tmp_path: Path) -> None:
    journal = Journal(tmp_path, 100)
    journal.write("medical", {"text": "x" * 100})
    assert not journal.path("medical").exists()


def test_only_the_owner_may_read(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "shadows", 1000)
    journal.write("medical", {"text": "\ud800"})  # half a pair, as no file may hold it
    assert stat.S_IMODE(journal.path("medical").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "shadows").stat().st_mode) == 0o700
