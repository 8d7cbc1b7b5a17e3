"""Torch's own threads: shared with compiled functions that are not torch's, and kept to one owner.

A second pool would fight with torch's for the cores: after each operation a pool's threads spin for a while, waiting
for the next one. OpenMP's compilers call `GOMP_parallel`; so do we, in the library that torch has loaded.

Each thread that computes together with others has helpers of its own in that library, and keeps them. Once all of them
are more than the cores, helpers no longer spin but sleep, and must be woken for every operation: a step of one row took
1.25 times as long. So only the thread of an engine at work may keep helpers; others work `alone`, or `dismiss` theirs.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from functools import cache
from typing import Any

import torch

_PAUSE_SOFT = 1
"""Give the threads back, keep the settings (`omp_pause_soft`, OpenMP 5.0 section 3.2.44)."""


def alone() -> None:
    """Let this thread compute without helpers from now on."""
    set_threads = _openmp("omp_set_num_threads", None, ctypes.c_int)
    if set_threads is not None:
        # Torch sets the number once for each thread, when first asked; what is set before that is lost.
        torch.get_num_threads()
        set_threads(1)


def dismiss() -> None:
    """Give back the helpers of this thread; its next operation on many values starts them again."""
    pause = _openmp("omp_pause_resource_all", ctypes.c_int, ctypes.c_int)
    if pause is not None:
        pause(_PAUSE_SOFT)


@cache
def _openmp(name: str, result: Any, *arguments: Any) -> Callable[..., Any] | None:
    """Return a function of OpenMP's library, as torch itself finds it; None where torch runs on other threads."""
    if sys.platform == "win32":
        return None
    function = getattr(ctypes.CDLL(None), name, None)
    if function is not None:
        function.argtypes, function.restype = list(arguments), result
    return function


def team_size() -> int:
    """Return the address of `int f(void)`, which says how many threads run the job that asks; 0 if it runs alone."""
    function: Any = _openmp("omp_get_num_threads", ctypes.c_int)
    return 0 if function is None else ctypes.cast(function, ctypes.c_void_p).value or 0


def _parallel() -> Callable[..., Any] | None:
    return _openmp("GOMP_parallel", None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)


class Team:
    """Runs a C function `void f(void *job)` on one thread or on as many as torch uses."""

    def __init__(self, function: int) -> None:
        self.address = function
        self._alone = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(function)
        self._quick = ctypes.PYFUNCTYPE(None, ctypes.c_void_p)(function)
        self._parallel = _parallel()

    @property
    def size(self) -> int:
        """How many threads `together` takes."""
        return 1 if self._parallel is None else torch.get_num_threads()

    def alone(self, job: int) -> None:
        """Run the function on this thread; `job` is an address."""
        self._alone(job)

    def quick(self, job: int) -> None:
        """Run the function on this thread and keep the interpreter's lock.

        For jobs of microseconds: whoever gives the lock away may wait much longer to have it back.
        """
        self._quick(job)

    def together(self, job: int) -> None:
        """Run the function on all threads at once with the same `job`; return when all have returned."""
        size = self.size
        if self._parallel is None or size == 1:
            self._alone(job)
        else:
            self._parallel(self.address, job, size, 0)
