"""The machine a run was made on: processor, cores, versions, and how busy others kept it meanwhile."""

from __future__ import annotations

import os
import platform
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

PROC: Final = Path("/proc")
PACKAGES: Final = ("loradex", "torch", "transformers", "numba", "triton", "numpy", "safetensors")
# The fields of the first line of /proc/stat, which counts ticks of all cores since boot.
_FIELDS: Final = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")


@dataclass(frozen=True, slots=True)
class Ticks:
    """A look at the clocks: seconds of all cores by what they did, seconds that this process used, and wall time."""

    cores: Mapping[str, float]
    own: float
    wall: float


def ticks(proc: Path = PROC) -> Ticks:
    """Look at the clocks now. Where there is no /proc, `cores` is empty."""
    try:
        words = (proc / "stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:]
    except OSError:
        words = []
    per_second = os.sysconf("SC_CLK_TCK")
    cores = {name: int(word) / per_second for name, word in zip(_FIELDS, words, strict=False)}
    return Ticks(cores, time.process_time(), time.perf_counter())


def between(before: Ticks, after: Ticks) -> dict[str, float]:
    """Return what the cores did between two looks, in shares of all their time.

    `steal` went to other guests of the host, `idle` to nobody, `others` to other processes of this machine. Where
    `others` and `steal` are not near zero, the run was disturbed.
    """
    spent = {name: after.cores[name] - before.cores[name] for name in after.cores if name in before.cores}
    whole = sum(spent.values())
    if not whole:
        return {}
    busy = sum(spent[name] for name in ("user", "nice", "system", "irq", "softirq"))
    others = max(0.0, busy - (after.own - before.own))
    return {
        "steal": spent["steal"] / whole,
        "idle": (spent["idle"] + spent["iowait"]) / whole,
        "others": others / whole,
        "seconds": after.wall - before.wall,
    }


def machine(proc: Path = PROC) -> dict[str, Any]:
    """Return what the machine is."""
    return {
        "cpu": _found(proc / "cpuinfo", r"model name\s*:\s*(.+)") or platform.processor() or platform.machine(),
        "cores": cores(),
        "memory_bytes": int(_found(proc / "meminfo", r"MemTotal:\s*(\d+)") or 0) * 1024,
        "system": platform.system(),
        "kernel": platform.release(),
    }


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def versions() -> dict[str, str]:
    """Return the versions of all that has a say in the figures."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def resident_bytes(proc: Path = PROC) -> int:
    """Return the memory that this process holds now; 0 where that is not known."""
    return int(_found(proc / "self" / "status", r"VmRSS:\s*(\d+)") or 0) * 1024


def _found(path: Path, pattern: str) -> str:
    try:
        match = re.search(pattern, path.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return ""
    return match[1].strip() if match else ""
