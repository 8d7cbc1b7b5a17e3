"""Torch's own threads, for compiled functions that are not torch's.

A second pool would fight with torch's for the cores: after each operation a pool's threads spin for a while, waiting
for the next one. OpenMP's compilers call `GOMP_parallel`; so do we, in the library that torch has loaded.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from functools import cache
from typing import Any

import torch


@cache
def _parallel() -> Callable[..., Any] | None:
    """Return OpenMP's entry, as torch itself finds it; None where torch runs on other threads."""
    if sys.platform == "win32":
        return None
    parallel = getattr(ctypes.CDLL(None), "GOMP_parallel", None)
    if parallel is not None:
        parallel.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
        parallel.restype = None
    return parallel


class Team:
    """Runs a C function `void f(void *job)` on one thread or on as many as torch uses."""

    def __init__(self, function: int) -> None:
        self._address = function
        self._alone = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(function)

    @property
    def size(self) -> int:
        """How many threads `together` takes."""
        return 1 if _parallel() is None else torch.get_num_threads()

    def alone(self, job: int) -> None:
        """Run the function on this thread; `job` is an address."""
        self._alone(job)

    def together(self, job: int) -> None:
        """Run the function on all threads at once with the same `job`; return when all have returned."""
        parallel, size = _parallel(), self.size
        if parallel is None or size == 1:
            self._alone(job)
        else:
            parallel(self._address, job, size, 0)
