"""Mapped packs stay what they are, whatever anybody does to their files."""

from __future__ import annotations

import gc
import mmap
import os
import sys
import threading
from pathlib import Path

import pytest

from loradex.engine.local import guard as module
from loradex.engine.local.guard import Guard

CONTENT = bytes(range(256)) * 100


@pytest.fixture
def guard() -> Guard:
    return Guard()


def mapped(guard: Guard, folder: Path) -> tuple[Path, mmap.mmap]:
    path = folder / "file"
    path.write_bytes(CONTENT)
    with path.open("rb") as file:
        return path, guard.map(file)


def leases(folder: Path) -> bool:
    probe = folder / "probe"
    probe.touch()
    with probe.open("rb") as file:
        return module._lease(file.fileno())


@pytest.mark.skipif(sys.platform != "linux", reason="files are copied where the kernel gives no leases")
@pytest.mark.parametrize("change", [lambda path: os.truncate(path, 0), lambda path: path.write_bytes(b"other")])
def test_who_changes_a_mapped_file_waits_until_a_copy_stands_for_it(guard: Guard, tmp_path: Path, change) -> None:
    if not leases(tmp_path):
        pytest.skip("the file system gives no leases")
    path, memory = mapped(guard, tmp_path)
    place = memoryview(memory)  # what others hold of it
    with pytest.raises(BlockingIOError):  # without O_NONBLOCK it would wait
        os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    assert path.read_bytes() == CONTENT
    guard.look()
    os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))  # nobody waits any more
    change(path)
    assert path.stat().st_size < len(CONTENT)
    assert place == CONTENT
    place[0] = 7  # private
    assert memory[:2] == b"\x07\x01"
    place.release()
    guard.stop()


@pytest.mark.skipif(sys.platform != "linux", reason="files are copied where the kernel gives no leases")
def test_its_own_thread_looks(guard: Guard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.001)
    path, memory = mapped(guard, tmp_path)
    os.truncate(path, 0)
    assert memory[:] == CONTENT
    guard.stop()
    assert guard._thread is None or not guard._thread.is_alive()


def test_where_no_lease_can_be_had_it_is_a_copy(guard: Guard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_lease", lambda handle: False)
    path, memory = mapped(guard, tmp_path)
    os.truncate(path, 0)
    assert memory[:] == CONTENT
    assert threading.active_count() == 1 or guard._thread is None


def test_who_writes_already_keeps_it_from_being_mapped(guard: Guard, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    with path.open("rb+") as writer, path.open("rb") as file:
        memory = guard.map(file)
        writer.truncate(0)
    assert memory[:] == CONTENT


def test_an_empty_file_is_refused(guard: Guard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    for lease in (module._lease, lambda handle: False):
        monkeypatch.setattr(module, "_lease", lease)
        with (tmp_path / "file").open("rb") as file, pytest.raises(ValueError, match="empty"):
            guard.map(file)


def test_memory_that_nobody_uses_is_forgotten(guard: Guard, tmp_path: Path) -> None:
    path, memory = mapped(guard, tmp_path)
    before = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").is_dir() else None
    del memory
    gc.collect()
    assert guard._leases == {}
    if before is not None:
        assert len(os.listdir("/proc/self/fd")) < before
    os.truncate(path, 0)  # nobody has to wait
    guard.stop()


def test_after_its_end_nobody_waits(guard: Guard, tmp_path: Path) -> None:
    path, memory = mapped(guard, tmp_path)
    guard.stop()
    with path.open("rb+"):
        pass
    assert len(memory) == len(CONTENT)
