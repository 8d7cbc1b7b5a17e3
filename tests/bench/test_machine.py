from __future__ import annotations

from pathlib import Path

import pytest

from loradex.bench.machine import Ticks, between, machine, resident_bytes, ticks, versions


def test_shares_of_what_the_cores_did() -> None:
    names = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")
    before = Ticks(dict.fromkeys(names, 0.0), 0.0, 0.0)
    spent = dict(zip(names, (5.0, 0.0, 1.0, 2.0, 0.0, 0.0, 0.0, 2.0), strict=True))
    during = between(before, Ticks(spent, 4.5, 5.0))
    assert during == pytest.approx({"steal": 0.2, "idle": 0.2, "others": 0.15, "seconds": 5.0})


def test_proc_is_read(tmp_path: Path) -> None:
    (tmp_path / "stat").write_text("cpu  100 0 50 800 0 0 0 50 0 0\ncpu0 1 2\n")
    (tmp_path / "cpuinfo").write_text("processor : 0\nmodel name\t: A Processor 9\n")
    (tmp_path / "meminfo").write_text("MemTotal:       1024 kB\n")
    (tmp_path / "self").mkdir()
    (tmp_path / "self" / "status").write_text("Name: x\nVmRSS:\t  2048 kB\n")
    seen = ticks(tmp_path).cores
    assert seen["idle"] / seen["steal"] == pytest.approx(16)
    assert (machine(tmp_path)["cpu"], machine(tmp_path)["memory_bytes"]) == ("A Processor 9", 1 << 20)
    assert resident_bytes(tmp_path) == 2 << 20


def test_without_proc_nothing_is_made_up(tmp_path: Path) -> None:
    looked = ticks(tmp_path / "none")
    assert looked.cores == {}
    assert between(looked, looked) == {}
    assert resident_bytes(tmp_path) == 0
    assert machine(tmp_path)["cores"] >= 1
    assert "python" in versions()
