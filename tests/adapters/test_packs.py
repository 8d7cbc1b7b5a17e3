from __future__ import annotations

import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from loradex.adapters.packs import PackFolder
from loradex.adapters.temporary import STALE_SECONDS


def test_a_folder_that_is_not_there_holds_nothing(tmp_path: Path) -> None:
    packs = PackFolder(tmp_path / "packs")
    packs.remove("a")
    packs.sweep(lambda digest: False)
    assert not packs.folder.exists()


def test_packs_of_a_digest_go_together_and_others_stay(tmp_path: Path) -> None:
    packs = PackFolder(tmp_path)
    places = [packs.path(*name) for name in (("aa", "bfloat16", 1), ("aa", "float32", 2), ("ab", "float32", 2))]
    for place in places:
        packs.temporary("aa").write_bytes(b"x")
        place.write_bytes(b"x")
    packs.remove("aa")
    assert list(tmp_path.iterdir()) == [places[2]]


def test_what_nobody_knows_or_finishes_is_swept(tmp_path: Path) -> None:
    packs = PackFolder(tmp_path)
    known, young, old = packs.path("aa", "float32", 1), packs.temporary("aa"), packs.temporary("aa")
    for place in (known, young, old, packs.path("bb", "float32", 1)):
        place.write_bytes(b"x")
    then = time.time() - STALE_SECONDS - 60
    for place in (known, old):
        os.utime(place, (then, then))
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    left = tmp_path / packs.temporary("aa").name.replace(f"-{os.getpid()}-", f"-{int(ended.stdout)}-")
    left.write_bytes(b"x")
    packs.sweep(lambda digest: digest == "aa")
    assert set(tmp_path.iterdir()) == {known, young}


def test_a_pack_that_has_its_name_is_not_written_any_more(tmp_path: Path) -> None:
    packs = PackFolder(tmp_path)
    temporary, path = packs.temporary("aa"), packs.path("aa", "float32", 1)
    temporary.write_bytes(b"x")
    packs.publish(temporary, path)
    assert (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) == (b"x", 0o444)


def test_a_name_that_cannot_be_given_leaves_nothing(tmp_path: Path) -> None:
    packs = PackFolder(tmp_path / "packs")
    temporary = packs.temporary("aa")
    temporary.write_bytes(b"x")
    with pytest.raises(OSError, match="elsewhere"):
        packs.publish(temporary, tmp_path / "elsewhere" / "aa.pack")
    assert list(packs.folder.iterdir()) == []
