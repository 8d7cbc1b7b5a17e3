from __future__ import annotations

import mmap
import os
from pathlib import Path

import pytest

from loradex.bench.disk import evict, read_seconds


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="this system cannot evict")
def test_eviction_keeps_the_content(tmp_path: Path) -> None:
    files = [tmp_path / name for name in "ab"]
    for file in files:
        file.write_bytes(os.urandom(3 * mmap.PAGESIZE))
    before = [file.read_bytes() for file in files]
    assert evict(files)
    assert [file.read_bytes() for file in files] == before
    assert read_seconds(files) > 0


def test_nothing_to_evict_is_no_error() -> None:
    evict([])
    assert read_seconds([]) >= 0
