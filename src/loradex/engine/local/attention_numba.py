"""Attention of single rows over the paged bfloat16 cache, compiled by Numba: keys and values are read where they lie.

For processors without instructions for bfloat16, on which torch's own attention widens value by value: it took most of
a step. Importing this module compiles it (a cache on disk makes the next import quick). `bf16` is a C function that
takes the address of a job, int64 fields as named below. Several threads may run one job; they take its units, a
sequence and a head of keys and values with all queries on it, by an atomic counter.

Where a job has cosines, it also does what stands before attention in a decode step: it rotates queries and keys and
writes the row's own key and value to the cache.

Loops are written for LLVM: some queries share what widening a key or a value costs, and their sums stay in registers.
"""

from __future__ import annotations

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
    broadcast,
    constant,
    element,
    exponential,
    fma,
    loop,
    many,
    pointer,
    read,
    same,
    widen,
    widened,
    write,
)

# The fields of a job. A change here must stay in this file: the cache on disk looks at no other.
TAKEN = 0  # units taken so far; 0 at the start, and the first field
UNITS = 1  # sequences times heads
HEADS = 2  # heads of keys and values
QUERIES = 3  # queries on one head
KEY_DIM = 4  # a multiple of 16
VALUE_DIM = 5  # likewise
QUERY = 6  # address of bfloat16 [sequences, heads, queries, KEY_DIM]
KEYS = 7  # address of bfloat16 [all cells, heads, KEY_DIM]
VALUES = 8  # address of bfloat16 [all cells, heads, VALUE_DIM]
CELLS = 9  # address of int64 [sequences, LONGEST], the cells of each sequence's tokens
LONGEST = 10
LENGTHS = 11  # address of int64 [sequences], how many of them count
WINDOW = 12  # how many of the last of these a row sees
SCALING = 13  # as the bits of a float64
OUTPUT = 14  # address of bfloat16 [sequences, heads, queries, VALUE_DIM]
SCRATCH = 15  # address of float32 [units, ROOM]
ROOM = 16  # queries * (KEY_DIM + LONGEST filled up to a multiple of 16 + 16)
COS = 17  # address of bfloat16 [sequences, KEY_DIM], by which queries and keys are still to be rotated; 0: they are
SIN = 18  # likewise
OWN_KEYS = 19  # address of bfloat16 [sequences, heads, KEY_DIM], to be rotated and written to the cache
OWN_VALUES = 20  # address of bfloat16 [sequences, heads, VALUE_DIM], to be written to the cache
WRITTEN = 21  # address of int64 [sequences], the cells of these
FIELDS = 22

_AT_ONCE = 6  # queries whose sums stay in registers, two of 8 values each


def _sum(b: Any, value: Any) -> Any:
    """Return the sum of a vector's values."""
    kind = ir.FunctionType(F32, [F32, many(F32)])
    add = cgutils.get_or_insert_function(b.module, kind, f"llvm.vector.reduce.fadd.v{LANES}f32")
    return b.call(add, [F32(0.0), value], fastmath=("reassoc",))


def _scores_of(queries: int) -> Any:
    @intrinsic
    def scores(_: Any, query: Any, dim: Any, keys: Any, step: Any, cells: Any, count: Any, out: Any, room: Any) -> Any:
        """Write the products of some float32 queries with the keys of `count` cells, a row of `room` for each query."""

        def generate(c: Any, b: Any, s: Any, args: Any) -> Any:
            query, dim, keys, step, cells, count, out, room = args

            def cell(j: Any, given: Any) -> Any:
                number = b.load(pointer(b, element(b, cells, j, 8), I64))
                key = b.add(keys, b.mul(number, step))

                def part(d: Any, sums: Any) -> Any:
                    value = widened(b, read(b, element(b, key, d, 2 * LANES), 0, I16))
                    rows = [element(b, b.add(query, b.mul(dim, I64(4 * q))), d, 4 * LANES) for q in range(queries)]
                    return [fma(b, value, read(b, row, 0, F32), own) for row, own in zip(rows, sums, strict=True)]

                sums = loop(b, b.sdiv(dim, I64(LANES)), [constant(F32, 0.0)] * queries, part)
                for q, value in enumerate(sums):
                    place = element(b, out, b.add(b.mul(room, I64(q)), j), 4)
                    b.store(_sum(b, value), pointer(b, place, F32), align=4)
                return given

            loop(b, count, [], cell)
            return c.get_dummy_value()

        return types.void(*[types.int64] * 8), generate

    return scores


def _sums_of(queries: int) -> Any:
    @intrinsic
    def sums(_: Any, shares: Any, room: Any, values: Any, step: Any, cells: Any, count: Any, out: Any, dim: Any) -> Any:
        """Write the sums of 16 values of `count` cells, weighted by each query's shares, as bfloat16."""

        def generate(c: Any, b: Any, s: Any, args: Any) -> Any:
            shares, room, values, step, cells, count, out, dim = args

            def cell(j: Any, given: Any) -> Any:
                number = b.load(pointer(b, element(b, cells, j, 8), I64))
                value = widened(b, read(b, b.add(values, b.mul(number, step)), 0, I16))
                places = [element(b, shares, b.add(b.mul(room, I64(q)), j), 4) for q in range(queries)]
                return [fma(b, value, broadcast(b, place), own) for place, own in zip(places, given, strict=True)]

            for q, value in enumerate(loop(b, count, [constant(F32, 0.0)] * queries, cell)):
                write(b, b.add(out, b.mul(dim, I64(2 * q))), 0, bfloat16(b, value))
            return c.get_dummy_value()

        return types.void(*[types.int64] * 8), generate

    return sums


@intrinsic
def _widen(_: Any, source: Any, count: Any, target: Any, factor: Any) -> Any:
    """Write `count` bfloat16 as float32, times a factor."""

    def generate(c: Any, b: Any, s: Any, args: Any) -> Any:
        widen(b, *args)
        return c.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64, types.float32), generate


def _rotation(put: Any) -> Any:
    @intrinsic
    def rotate(_: Any, head: Any, cos: Any, sin: Any, half: Any, target: Any, factor: Any) -> Any:
        """Rotate the halves of a head's values against each other, rounding where transformers rounds."""

        def generate(c: Any, b: Any, s: Any, args: Any) -> Any:
            head, cos, sin, half, target, factor = args
            times = same(b, factor)

            def part(i: Any, given: Any) -> Any:
                upper = b.add(half, b.mul(i, I64(LANES)))

                def both(base: Any) -> tuple[Any, Any]:
                    first = read(b, element(b, base, i, 2 * LANES), 0, I16)
                    return widened(b, first), widened(b, read(b, element(b, base, upper, 2), 0, I16))

                (x, y), (cos_x, cos_y), (sin_x, sin_y) = both(head), both(cos), both(sin)
                turned = b.fsub(_rounded(b, b.fmul(x, cos_x)), _rounded(b, b.fmul(y, sin_x)))
                put(b, target, b.mul(i, I64(LANES)), turned, times)
                turned = b.fadd(_rounded(b, b.fmul(y, cos_y)), _rounded(b, b.fmul(x, sin_y)))
                put(b, target, upper, turned, times)
                return given

            loop(b, b.sdiv(half, I64(LANES)), [], part)
            return c.get_dummy_value()

        return types.void(*[types.int64] * 5, types.float32), generate

    return rotate


def _rounded(b: Any, value: Any) -> Any:
    return widened(b, bfloat16(b, value))


def _put_wide(b: Any, target: Any, place: Any, value: Any, times: Any) -> None:
    write(b, element(b, target, place, 4), 0, b.fmul(_rounded(b, value), times))


def _put_narrow(b: Any, target: Any, place: Any, value: Any, times: Any) -> None:
    write(b, element(b, target, place, 2), 0, bfloat16(b, value))


_rotate_wide, _rotate_narrow = _rotation(_put_wide), _rotation(_put_narrow)


@intrinsic
def _copy(_: Any, source: Any, count: Any, target: Any) -> Any:
    """Write `count` bfloat16, a multiple of 16."""

    def generate(c: Any, b: Any, s: Any, args: Any) -> Any:
        source, count, target = args

        def part(i: Any, given: Any) -> Any:
            write(b, element(b, target, i, 2 * LANES), 0, read(b, element(b, source, i, 2 * LANES), 0, I16))
            return given

        loop(b, b.sdiv(count, I64(LANES)), [], part)
        return c.get_dummy_value()

    return types.void(*[types.int64] * 3), generate


@intrinsic
def _softmax(_: Any, row: Any, count: Any) -> Any:
    """Turn `count` scores into shares of 1, in place; room up to a multiple of 16 behind them is overwritten."""

    def generate(c: Any, b: Any, s: Any, args: Any) -> Any:
        row, count = args
        lowest = constant(F32, float("-inf"))
        parts = b.sdiv(b.add(count, I64(LANES - 1)), I64(LANES))
        write(b, element(b, row, count, 4), 0, lowest)  # the room has 16 more

        def larger(i: Any, given: Any) -> Any:
            value = read(b, element(b, row, i, 4 * LANES), 0, F32)
            return [b.select(b.fcmp_ordered("ogt", value, given[0]), value, given[0])]

        largest = loop(b, parts, [lowest], larger)[0]
        peak = b.extract_element(largest, I32(0))
        for lane in range(1, LANES):
            value = b.extract_element(largest, I32(lane))
            peak = b.select(b.fcmp_ordered("ogt", value, peak), value, peak)
        peak = same(b, peak)

        def power(i: Any, given: Any) -> Any:
            place = element(b, row, i, 4 * LANES)
            value = exponential(b, b.fsub(read(b, place, 0, F32), peak))
            write(b, place, 0, value)
            return [b.fadd(given[0], value)]

        total = _sum(b, loop(b, parts, [constant(F32, 0.0)], power)[0])
        share = same(b, b.fdiv(F32(1.0), total))

        def scaled(i: Any, given: Any) -> Any:
            place = element(b, row, i, 4 * LANES)
            write(b, place, 0, b.fmul(read(b, place, 0, F32), share))
            return given

        loop(b, parts, [], scaled)
        return c.get_dummy_value()

    return types.void(types.int64, types.int64), generate


# One by one and not in a loop: what a function gets from around it, Numba would compile again in every process.
_SCORES_1, _SCORES_2, _SCORES_3, _SCORES_4, _SCORES_5, _SCORES_6 = (_scores_of(n) for n in range(1, _AT_ONCE + 1))
_SUMS_1, _SUMS_2, _SUMS_3, _SUMS_4, _SUMS_5, _SUMS_6 = (_sums_of(n) for n in range(1, _AT_ONCE + 1))


@njit(inline="always")
def _scores(n: Any, query: Any, dim: Any, keys: Any, step: Any, cells: Any, count: Any, out: Any, room: Any) -> None:
    if n == 1:
        _SCORES_1(query, dim, keys, step, cells, count, out, room)
    elif n == 2:
        _SCORES_2(query, dim, keys, step, cells, count, out, room)
    elif n == 3:
        _SCORES_3(query, dim, keys, step, cells, count, out, room)
    elif n == 4:
        _SCORES_4(query, dim, keys, step, cells, count, out, room)
    elif n == 5:
        _SCORES_5(query, dim, keys, step, cells, count, out, room)
    else:
        _SCORES_6(query, dim, keys, step, cells, count, out, room)


@njit(inline="always")
def _sums(n: Any, shares: Any, room: Any, values: Any, step: Any, cells: Any, count: Any, out: Any, dim: Any) -> None:
    if n == 1:
        _SUMS_1(shares, room, values, step, cells, count, out, dim)
    elif n == 2:
        _SUMS_2(shares, room, values, step, cells, count, out, dim)
    elif n == 3:
        _SUMS_3(shares, room, values, step, cells, count, out, dim)
    elif n == 4:
        _SUMS_4(shares, room, values, step, cells, count, out, dim)
    elif n == 5:
        _SUMS_5(shares, room, values, step, cells, count, out, dim)
    else:
        _SUMS_6(shares, room, values, step, cells, count, out, dim)


@njit(inline="always")
def _rotated(job: Any, unit: Any, query: Any, scaling: Any) -> None:
    """Rotate the queries of a unit, and write its own key and value to the cache."""
    heads, queries, dim, wide = job[HEADS], job[QUERIES], job[KEY_DIM], job[VALUE_DIM]
    sequence, head = unit // heads, unit % heads
    cos, sin = job[COS] + 2 * sequence * dim, job[SIN] + 2 * sequence * dim
    for q in range(queries):
        own = job[QUERY] + 2 * (unit * queries + q) * dim
        _rotate_wide(own, cos, sin, dim // 2, query + 4 * q * dim, scaling)
    cell = heads * _words(job[WRITTEN] + 8 * sequence, 1, np.int64(0))[0] + head
    _rotate_narrow(job[OWN_KEYS] + 2 * unit * dim, cos, sin, dim // 2, job[KEYS] + 2 * cell * dim, scaling)
    _copy(job[OWN_VALUES] + 2 * unit * wide, wide, job[VALUES] + 2 * cell * wide)


@njit(inline="always")
def _unit(address: Any, unit: Any) -> None:
    """Attend the queries of one sequence on one head."""
    job = _words(address, FIELDS, np.int64(0))
    heads, queries, dim, wide = job[HEADS], job[QUERIES], job[KEY_DIM], job[VALUE_DIM]
    sequence, head = unit // heads, unit % heads
    length = _words(job[LENGTHS] + 8 * sequence, 1, np.int64(0))[0]
    first = max(0, length - job[WINDOW])
    count, cells = length - first, job[CELLS] + 8 * (sequence * job[LONGEST] + first)
    query = job[SCRATCH] + 4 * unit * job[ROOM]
    shares, room = query + 4 * queries * dim, job[ROOM] // queries - dim
    scaling = np.float32(_words(address, FIELDS, np.float64(0))[SCALING])
    if job[COS]:
        _rotated(job, unit, query, scaling)
    else:
        _widen(job[QUERY] + 2 * unit * queries * dim, queries * dim, query, scaling)
    tiles, done = (queries + _AT_ONCE - 1) // _AT_ONCE, 0
    for tile in range(tiles):
        n = (queries - done) // (tiles - tile)
        own = shares + 4 * done * room
        keys, values = job[KEYS] + 2 * head * dim, job[VALUES] + 2 * head * wide
        _scores(n, query + 4 * done * dim, dim, keys, 2 * heads * dim, cells, count, own, room)
        for q in range(n):
            _softmax(own + 4 * q * room, count)
        out = job[OUTPUT] + 2 * (unit * queries + done) * wide
        for part in range(0, wide, LANES):
            _sums(n, own, room, values + 2 * part, 2 * heads * wide, cells, count, out + 2 * part, wide)
        done += n


@cfunc(types.void(types.int64), cache=True)
def bf16(address: Any) -> None:
    """Run a job."""
    units = _words(address, FIELDS, np.int64(0))[UNITS]
    unit = _add(address, 1)
    while unit < units:
        _unit(address, unit)
        unit = _add(address, 1)
