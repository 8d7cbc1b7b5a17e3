from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from loradex.adapters.digest import digest
from loradex.adapters.temporary import STALE_SECONDS, _host
from loradex.registry.blobs import Blobs
from loradex.registry.registry import Registry
from tests.adapters.making import BASE, make_adapter
from tests.registry.conftest import Add, files


@pytest.fixture
def blobs(tmp_path: Path) -> Blobs:
    return Blobs(tmp_path / "blobs")


def publish(blobs: Blobs) -> str:
    with blobs.staging() as temporary:
        make_adapter(temporary)
        name = digest(temporary)
        assert blobs.publish(temporary, name) == blobs.path(name)
    return name


def age(path: Path, seconds: float) -> None:
    then = path.stat().st_mtime - seconds
    os.utime(path, (then, then))


def test_files_lie_by_their_digest(blobs: Blobs) -> None:
    name = publish(blobs)
    assert blobs.has(name)
    assert blobs.path(name) == blobs.folder / name[:2] / name
    assert os.listdir(blobs.folder) == [name[:2]]
    assert [found for found, _ in blobs.stored()] == [name]
    blobs.remove(name)
    blobs.remove(name)
    assert not blobs.has(name)
    assert list(blobs.stored()) == []


def test_a_good_copy_stays_and_becomes_young(blobs: Blobs) -> None:
    name = publish(blobs)
    age(blobs.path(name), 1000)
    before = blobs.path(name).stat().st_ino
    publish(blobs)
    assert blobs.path(name).stat().st_ino == before
    assert next(blobs.stored())[1] < 900


def test_staging_leaves_nothing_when_it_fails(blobs: Blobs) -> None:
    with pytest.raises(FileNotFoundError), blobs.staging() as temporary:
        make_adapter(temporary).joinpath("gone").read_text()
    assert os.listdir(blobs.folder) == []


def test_the_sweep_takes_what_nobody_will_finish(blobs: Blobs) -> None:
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    for name in (
        f"tmp-{_host()}-{int(ended.stdout)}-dead",
        f"tmp-{_host()}-{os.getpid()}-alive",
        f"tmp-00000000-{int(ended.stdout)}-elsewhere",
        f"tmp-{_host()}-{os.getpid()}-old",
        f"tmp-{_host()}-{'9' * 40}-odd",
        "tmp-",
    ):
        (blobs.folder / name).mkdir()
    age(blobs.folder / f"tmp-{_host()}-{os.getpid()}-old", STALE_SECONDS + 60)
    name = publish(blobs)
    blobs.sweep()
    left = {path.partition("-")[2] for path in os.listdir(blobs.folder) if path.startswith("tmp-")}
    assert left == {f"{_host()}-{os.getpid()}-alive", f"00000000-{int(ended.stdout)}-elsewhere", ""}
    assert blobs.has(name)


def test_opening_sweeps_old_files_without_a_version(registry: Registry, add: Add, home: Path, tmp_path: Path) -> None:
    kept = add("medical")
    orphan = registry.stage(make_adapter(tmp_path / "a", lora_alpha=9), BASE, max_rank=16)
    young = registry.stage(make_adapter(tmp_path / "b", lora_alpha=10), BASE, max_rank=16)
    for digest_ in (kept.digest, orphan.adapter.digest):
        age(registry.adapter(digest_).path, STALE_SECONDS + 60)
    registry.close()
    with Registry(home) as again:
        assert again.adapter(kept.digest)
        assert again.adapter(young.adapter.digest)
        assert not any(orphan.adapter.digest in path for path in files(home))
