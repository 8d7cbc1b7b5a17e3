"""The LoRA kernel for few rows, compiled by Numba: shrink and expand of all segments of a step in one call.

Importing this module compiles it (seconds; a cache on disk makes the next import quick). It holds two C functions,
`bf16` and `fp32`, named after the storage of inputs, outputs and adapters; sums are float32. Each takes the address of
a job, int64 fields as named below. Several threads may run one job: they take its pieces by an atomic counter, so that
none waits for a slow one. The threads are torch's (see `team`); nothing here starts one.

Two bfloat16 are read as one 32-bit word: a shift makes the first a float32 and a mask the second, half the instructions
of widening them one by one. Row lengths in bfloat16 must thus be even. "Words" below are these, or single float32.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, cfunc, njit, types
from numba.extending import intrinsic

# The fields of a job. A change here must stay in this file: the cache on disk looks at no other.
TAKEN = 0  # pieces taken so far; 0 at the start, and the first field
SHRUNK = 1  # pieces of the shrink that are done; 0 at the start
THREADS = 2  # how many threads run the job
SEGMENTS = 3  # how many segments
SEGMENT = 4  # address of int64 [segments, 6]: first row, end row, slot, rows of the segments before, sharers, weight
#              as the bits of a float64. Sharers are segments with the same rows, which follow one another: their number
#              for the first, 0 for the others
INPUT = 5  # address of the input, [rows, in]
WIDTH_IN = 6  # in
OUTPUT = 7  # address of the output, [rows, out]
WIDTH_OUT = 8  # out
PRODUCTS = 9  # address of float32 scratch, [rows, RANK]
RANK = 10  # largest rank in the table
ROWS = 11  # rows of all segments
TABLE = 12  # address of int64 [slots, 3]: address of a [rank, in], of b [rank, out], rank (0: nothing here)
SCALING = 13  # address of float32 [slots]
SLOTS = 14  # how many slots
FIELDS = 15

_I32, _I64 = ir.IntType(32), ir.IntType(64)
_TILE = 1024  # words of float32 sums that stay in the first-level cache
_NEAR = 128  # words of a row between two requests for what is read next
_FIRST, _LAST = 1, 2
_MATH = {"reassoc", "contract", "nsz", "arcp"}  # no `nnan`, `ninf`: a NaN must stay one


@intrinsic
def _low(_: Any, word: Any) -> Any:
    """Return the first value of a word as float32."""
    if word == types.float32:
        return types.float32(word), lambda c, b, s, args: args[0]
    return types.float32(word), lambda c, b, s, args: b.bitcast(b.shl(args[0], _I32(16)), ir.FloatType())


@intrinsic
def _high(_: Any, word: Any) -> Any:
    """Return the second value of a word as float32; 0 where there is none."""
    if word == types.float32:
        return types.float32(word), lambda c, b, s, args: ir.FloatType()(0.0)
    return types.float32(word), lambda c, b, s, args: b.bitcast(b.and_(args[0], _I32(0xFFFF0000)), ir.FloatType())


@intrinsic
def _values(_: Any, word: Any) -> Any:
    """Return how many values a word holds, known when compiled."""
    count = 1 if word == types.float32 else 2
    return types.int64(word), lambda c, b, s, args: _I64(count)


@intrinsic
def _bits(_: Any, value: Any) -> Any:
    """Return the bits of a float32."""
    return types.uint32(types.float32), lambda c, b, s, args: b.bitcast(args[0], _I32)


@intrinsic
def _either(_: Any, word: Any, one: Any, other: Any) -> Any:
    """Return `one` if words are float32, else `other`."""
    chosen = 1 if word == types.float32 else 2
    return word(word, types.float32, types.uint32), lambda c, b, s, args: args[chosen]


@intrinsic
def _at(_: Any, address: Any, word: Any) -> Any:
    """Return a pointer to values of the type of `word`."""
    pointer = types.CPointer(word)
    return pointer(types.int64, word), lambda c, b, s, args: b.inttoptr(args[0], c.get_value_type(pointer))


@intrinsic
def _add(_: Any, address: Any, count: Any) -> Any:
    """Add to an int64 that other threads add to as well; return what it was."""

    def generate(c: Any, b: Any, s: Any, args: Any) -> Any:
        return b.atomic_rmw("add", b.inttoptr(args[0], _I64.as_pointer()), args[1], "seq_cst")

    return types.int64(types.int64, types.int64), generate


@intrinsic
def _fetch_line(_: Any, address: Any) -> Any:
    """Ask for the cache line at an address, which need not exist."""

    def generate(c: Any, b: Any, s: Any, args: Any) -> Any:
        byte = ir.IntType(8).as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [byte, _I32, _I32, _I32])
        fetch = b.module.declare_intrinsic("llvm.prefetch", [byte], kind)
        b.call(fetch, [b.inttoptr(args[0], byte), _I32(0), _I32(3), _I32(1)])
        return c.get_dummy_value()

    return types.void(types.int64), generate


@njit
def _fetch(address: Any, stride: Any, size: Any) -> None:
    """Ask for `size` bytes of four rows that are `stride` bytes apart: memory works while the sums are made."""
    for line in range(0, size, 64):
        for row in range(4):
            _fetch_line(address + row * stride + line)


@njit
def _round(value: Any) -> Any:
    """Return the bits of a float32 with the upper 16 rounded to the nearest bfloat16, ties to even."""
    bits = _bits(value)
    if bits & np.uint32(0x7FFFFFFF) > np.uint32(0x7F800000):
        return bits | np.uint32(0x00400000)
    return bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))


@njit(fastmath=_MATH)
def _shrink(x: Any, a: Any, h: Any, ranks: Any, scaling: Any, ahead: Any) -> None:
    """Set `h[:ranks]` to `scaling * a x`; `x` is `[words]`, `a` the address of `[ranks, words]`.

    Four ranks share what reading x costs. `ahead` is the address of what is read after this, 0 to ask for nothing.
    """
    n = x.size
    k = 0
    while k < ranks:
        count = min(4, ranks - k)
        after = a + 4 * (k + 4) * n if k + 4 < ranks else ahead
        s0 = s1 = s2 = s3 = np.float32(0)
        for first in range(0, n, _NEAR):
            last = min(first + _NEAR, n)
            if ahead:
                _fetch(after + 4 * first, 4 * n, 4 * (last - first))
            part = x[first:last]
            own = a + 4 * (k * n + first)
            if count == 4:
                a0, a1 = _words(own, n, x[0]), _words(own + 4 * n, n, x[0])
                a2, a3 = _words(own + 8 * n, n, x[0]), _words(own + 12 * n, n, x[0])
                for j in range(part.size):
                    low, high = _low(part[j]), _high(part[j])
                    s0 += low * _low(a0[j]) + high * _high(a0[j])
                    s1 += low * _low(a1[j]) + high * _high(a1[j])
                    s2 += low * _low(a2[j]) + high * _high(a2[j])
                    s3 += low * _low(a3[j]) + high * _high(a3[j])
            else:
                a0 = _words(own, n, x[0])
                for j in range(part.size):
                    s0 += _low(part[j]) * _low(a0[j]) + _high(part[j]) * _high(a0[j])
        h[k] = s0 * scaling
        if count == 4:
            h[k + 1], h[k + 2], h[k + 3] = s1 * scaling, s2 * scaling, s3 * scaling
        k += 4 if count == 4 else 1


@njit(fastmath=_MATH)
def _expand(y: Any, b: Any, width: Any, h: Any, ranks: Any, low: Any, high: Any, ahead: Any, turn: Any) -> None:
    """Add `h b` to the words `y`. `b` is the address of their first column; its rows are `width` words apart.

    `low` and `high` are float32 scratch for the first and second values of the words; `ahead` as in `_shrink`. Where
    several are added to the same words, the sums stay in the scratch from one call to the next: only in the first
    `turn` (`_FIRST`) they are read from `y`, and in the last (`_LAST`) written to it, rounded once.
    """
    n = y.size
    pairs = _values(y[0]) == 2
    if turn & _FIRST:
        for j in range(n):
            low[j] = _low(y[j])
            if pairs:
                high[j] = _high(y[j])
    k = 0
    while k < ranks:
        after = b + 4 * (k + 4) * width if k + 4 < ranks else ahead
        count = min(4, ranks - k)
        h0 = h[k]
        for first in range(0, n, _NEAR):
            last = min(first + _NEAR, n)
            if ahead:
                _fetch(after + 4 * first, 4 * width, 4 * (last - first))
            own = b + 4 * (k * width + first)
            lows, highs = low[first:last], high[first:last]
            b0 = _words(own, width, y[0])
            if count == 4:
                h1, h2, h3 = h[k + 1], h[k + 2], h[k + 3]
                b1, b2 = _words(own + 4 * width, width, y[0]), _words(own + 8 * width, width, y[0])
                b3 = _words(own + 12 * width, width, y[0])
                for j in range(lows.size):
                    lows[j] += h0 * _low(b0[j]) + h1 * _low(b1[j]) + h2 * _low(b2[j]) + h3 * _low(b3[j])
                    if pairs:
                        highs[j] += h0 * _high(b0[j]) + h1 * _high(b1[j]) + h2 * _high(b2[j]) + h3 * _high(b3[j])
            else:
                for j in range(lows.size):
                    lows[j] += h0 * _low(b0[j])
                    if pairs:
                        highs[j] += h0 * _high(b0[j])
        k += 4 if count == 4 else 1
    if turn & _LAST:
        for j in range(n):
            both = (_round(low[j]) >> np.uint32(16)) | (_round(high[j]) & np.uint32(0xFFFF0000))
            y[j] = _either(y[j], low[j], both)


@njit
def _words(address: Any, count: Any, word: Any) -> Any:
    """Return the `count` words at an address as an array."""
    return carray(_at(address, word), (count,))


@njit
def _place(job: Any, piece: Any, parts: Any) -> tuple[Any, ...]:
    """Return the row of a piece's segment, the place of its products, its part, and the row of its adapter.

    Parts of one segment are neighbours.
    """
    segment = _words(job[SEGMENT], 6 * job[SEGMENTS], np.int64(0))[6 * (piece // parts) :]
    table = _words(job[TABLE], 3 * job[SLOTS], np.int64(0))[3 * segment[2] :]
    return segment, segment[3] * job[RANK], piece % parts, table


@njit
def _later(job: Any, piece: Any, parts: Any, pair: Any) -> Any:
    """Return the address of what a later piece reads first, of `a` (0) or `b` (1); its own for the last piece."""
    piece = min(piece + job[THREADS], job[SEGMENTS] * parts - 1)
    return _place(job, piece, parts)[3][pair]


@njit
def _shrink_piece(job: Any, piece: Any, parts: Any, word: Any) -> None:
    """Compute the products of some ranks, for the rows of one segment."""
    segment, place, part, table = _place(job, piece, parts)
    start, end, slot = segment[0], segment[1], segment[2]
    share = (table[2] + parts - 1) // parts
    first = min(part * share, table[2])
    ranks = min(share, table[2] - first)
    if ranks > 0:
        weight = np.float32(_words(job[SEGMENT], 6 * job[SEGMENTS], np.float64(0))[6 * (piece // parts) + 5])
        scaling = _words(job[SCALING], job[SLOTS], np.float32(0))[slot] * weight
        width = job[WIDTH_IN] // _values(word)
        x = _words(job[INPUT], end * width, word)
        h = _words(job[PRODUCTS], job[ROWS] * job[RANK], np.float32(0))[place:]
        ahead = _later(job, piece, parts, 0)
        for row in range(start, end):
            own = h[(row - start) * job[RANK] + first :]
            _shrink(x[row * width : (row + 1) * width], table[0] + 4 * first * width, own, ranks, scaling, ahead)
            ahead = 0


@njit
def _expand_piece(job: Any, piece: Any, parts: Any, low: Any, high: Any, word: Any) -> None:
    """Add the products to some columns of the output, in the rows of one segment and of those that share them.

    All by one thread: two that add to the same words at once would lose one's sum.
    """
    width = job[WIDTH_OUT] // _values(word)
    share = (width + parts - 1) // parts
    first = piece % parts * share
    last = min(first + share, width)
    segment = _place(job, piece, parts)[0]
    y = _words(job[OUTPUT], segment[1] * width, word)
    h = _words(job[PRODUCTS], job[ROWS] * job[RANK], np.float32(0))
    while segment[4] > 0 and first < last:
        until = min(first + _TILE, last)
        for row in range(segment[0], segment[1]):
            out = y[row * width + first : row * width + until]
            for sharer in range(segment[4]):
                _, place, _, table = _place(job, piece + sharer * parts, parts)
                own = h[place + (row - segment[0]) * job[RANK] :]
                ahead = 0
                if row == segment[0]:
                    ahead = table[1] + 4 * until if until < last else _later(job, piece + sharer * parts, parts, 1)
                turn = (_FIRST if sharer == 0 else 0) | (_LAST if sharer + 1 == segment[4] else 0)
                _expand(out, table[1] + 4 * first, width, own, table[2], low, high, ahead, turn)
        first = until


@njit
def _parts(job: Any) -> Any:
    """Return into how many pieces a segment is cut: no thread is left with much to do while the others are done."""
    return 1 if job[THREADS] == 1 or job[SEGMENTS] >= 4 * job[THREADS] else 4


@njit
def shrink_pieces(address: Any, word: Any) -> Any:
    """Take pieces of the shrink until none is left; return the first that is taken of the expand."""
    job = _words(address, FIELDS, np.int64(0))
    parts = _parts(job)
    piece = _add(address, 1)
    while piece < job[SEGMENTS] * parts:
        _shrink_piece(job, piece, parts, word)
        _add(address + 8 * SHRUNK, 1)
        piece = _add(address, 1)
    return piece


@njit
def expand_pieces(address: Any, piece: Any, word: Any) -> None:
    """Take pieces of the expand until none is left, from `piece` on, once all of the shrink are done."""
    job = _words(address, FIELDS, np.int64(0))
    parts = _parts(job)
    count = job[SEGMENTS] * parts
    low, high = np.empty(_TILE, np.float32), np.empty(_TILE, np.float32)
    while piece < 2 * count:
        while _add(address + 8 * SHRUNK, 0) < count:
            pass
        _expand_piece(job, piece - count, parts, low, high, word)
        piece = _add(address, 1)


@njit
def _run(address: Any, word: Any) -> None:
    expand_pieces(address, shrink_pieces(address, word), word)


@cfunc(types.void(types.int64), cache=True)
def bf16(address: Any) -> None:
    """Run a job whose inputs, outputs and adapters are bfloat16."""
    _run(address, np.uint32(0))


@cfunc(types.void(types.int64), cache=True)
def fp32(address: Any) -> None:
    """Run a job whose inputs, outputs and adapters are float32."""
    _run(address, np.float32(0))
