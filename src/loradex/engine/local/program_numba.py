"""A list of jobs as one compiled call, on all threads of a team; and the product of a gated activation.

Between two operations of a decode step Python takes longer than many of them, and others in the process may have its
lock. `run` is a C function that takes the address of a program, int64 fields as named below; every thread of the team
runs all of its operations, which are C functions themselves and share out their work by atomic counters. An operation
that reads what others wrote `WAITS` until every thread has done what stands before it. Importing this module compiles
it (a cache on disk makes the next import quick).
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from llvmlite import ir
from numba import cfunc, njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from loradex.engine.local.lora_numba import _add, _words
from loradex.engine.local.vectors import (
    F32,
    I16,
    I32,
    I64,
    LANES,
    bfloat16,
    constant,
    element,
    exponential,
    loop,
    pointer,
    read,
    widened,
    write,
)

# The fields of a program. A change here must stay in this file: the cache on disk looks at no other.
ARRIVED = 0  # threads that came to a place where all wait, at all such places together; 0 at the start
COUNT = 1  # operations
OPERATIONS = 2  # address of int64 [COUNT, 3]: see below
TEAM = 3  # see `team_size`
FIELDS = 4

# An operation.
FUNCTION = 0  # address of a C function that takes the address of a job
JOB = 1
WAITS = 2

# The fields of the job of a gated activation, `output = round(silu(gate)) * up`.
TAKEN = 0  # pieces taken so far; 0 at the start
GATE = 1  # address of bfloat16 [VALUES]
UP = 2  # likewise
OUTPUT = 3  # likewise
VALUES = 4  # a multiple of 16
GATED_FIELDS = 5

_PIECE = 1024  # values that a thread takes at a time
_PATIENCE = 2000  # looks at the counter before others may have the core


@intrinsic
def _call(_: Any, function: Any, job: Any) -> Any:
    """Call a C function."""
    kind = ir.FunctionType(ir.VoidType(), [I64]).as_pointer()

    def generate(c: Any, b: Any, s: Any, args: Any) -> Any:
        b.call(b.inttoptr(args[0], kind), [args[1]])
        return c.get_dummy_value()

    return types.void(types.int64, types.int64), generate


@intrinsic
def _asked(_: Any, function: Any) -> Any:
    """Call a C function that returns an int."""
    kind = ir.FunctionType(I32, []).as_pointer()
    return types.int32(types.int64), lambda c, b, s, args: b.call(b.inttoptr(args[0], kind), [])


@intrinsic
def _seen(_: Any, address: Any) -> Any:
    """Return an int64 that other threads add to."""
    return types.int64(types.int64), lambda c, b, s, args: b.load_atomic(pointer(b, args[0], I64), "seq_cst", 8)


@intrinsic
def _let_others(_: Any) -> Any:
    """Give the core to whoever waits for it."""

    def generate(c: Any, b: Any, s: Any, args: Any) -> Any:
        if sys.platform != "win32":
            b.call(cgutils.get_or_insert_function(b.module, ir.FunctionType(I32, []), "sched_yield"), [])
        return c.get_dummy_value()

    return types.void(), generate


@intrinsic
def _gate(_: Any, gate: Any, up: Any, output: Any, count: Any) -> Any:
    """Write the products of `count` values, a multiple of 16."""

    def generate(c: Any, b: Any, s: Any, args: Any) -> Any:
        gate, up, output, count = args

        def part(i: Any, given: Any) -> Any:
            x = widened(b, read(b, element(b, gate, i, 2 * LANES), 0, I16))
            positive = b.fcmp_unordered("uge", x, constant(F32, 0.0))
            power = exponential(b, b.select(positive, b.fsub(constant(F32, -0.0), x), x))  # of -|x|: never too large
            share = b.fdiv(b.select(positive, constant(F32, 1.0), power), b.fadd(constant(F32, 1.0), power))
            active = widened(b, bfloat16(b, b.fmul(x, share)))
            y = widened(b, read(b, element(b, up, i, 2 * LANES), 0, I16))
            write(b, element(b, output, i, 2 * LANES), 0, bfloat16(b, b.fmul(active, y)))
            return given

        loop(b, b.sdiv(count, I64(LANES)), [], part)
        return c.get_dummy_value()

    return types.void(*[types.int64] * 4), generate


@njit
def _wait(address: Any, awaited: Any) -> None:
    _add(address + 8 * ARRIVED, 1)
    looks = 0
    while _seen(address + 8 * ARRIVED) < awaited:
        looks += 1
        if looks % _PATIENCE == 0:
            _let_others()


@cfunc(types.void(types.int64), cache=True)
def run(address: Any) -> None:
    """Run a program."""
    program = _words(address, FIELDS, np.int64(0))
    operations = _words(program[OPERATIONS], 3 * program[COUNT], np.int64(0))
    threads = np.int64(_asked(program[TEAM])) if program[TEAM] else np.int64(1)
    awaited = np.int64(0)
    for number in range(program[COUNT]):
        own = operations[3 * number :]
        if own[WAITS]:
            awaited += threads
            _wait(address, awaited)
        _call(own[FUNCTION], own[JOB])


@cfunc(types.void(types.int64), cache=True)
def gated(address: Any) -> None:
    """Run the job of a gated activation."""
    job = _words(address, GATED_FIELDS, np.int64(0))
    first = _add(address, _PIECE)
    while first < job[VALUES]:
        count = min(_PIECE, job[VALUES] - first)
        _gate(job[GATE] + 2 * first, job[UP] + 2 * first, job[OUTPUT] + 2 * first, count)
        first = _add(address, _PIECE)
