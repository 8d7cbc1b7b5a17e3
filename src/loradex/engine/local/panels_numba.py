"""Products with int8 and int4 weights for few rows, compiled by Numba: weights become float32 in registers only.

Importing this module compiles it (seconds; a cache on disk makes the next import quick). It holds four C functions,
which take the address of a job, int64 fields as named below: `int8` and `int4` multiply, `unpack8` and `unpack4` write
the weights out for a dense product. Several threads may run one job; they are torch's (see `team`).

Weights lie in panels of 64 outputs, and in a panel input by input: a product reads them from front to back, adds each
input to 64 sums that stay in registers, and needs no sum across a register. The loops over a panel are written for
LLVM, as its vectorizer does not keep such a tile in registers: in Numba's own loops each sum went to memory and back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from numba import cfunc, njit, types
from numba.extending import intrinsic

from loradex.engine.local.vectors import (
    F32,
    I8,
    I16,
    I32,
    I64,
    LANES,
    Values,
    bfloat16,
    broadcast,
    constant,
    element,
    fetch,
    fma,
    loop,
    many,
    pointer,
    read,
    write,
)

# The fields of a job. A change here must stay in this file: the cache on disk looks at no other.
TAKEN = 0  # panels taken so far; 0 at the start, and the first field
SHARE = 1  # panels that a thread takes at a time
PANELS = 2  # how many panels
WIDTH = 3  # inputs
ROWS = 4  # rows of the input
CODES = 5  # address of the codes: int8 [panels, inputs, 64], int4 [panels, inputs, 32] (outputs 0.. low, 32.. high)
CODES_STEP = 6  # bytes of a panel's codes
SCALES = 7  # address of the scales: int8 float32 [panels, 64], int4 bfloat16 [panels, groups, 64]
SCALES_STEP = 8  # bytes of a panel's scales
BIAS = 9  # address of float32 [panels, 64]
INPUT = 10  # address of float32 [rows, inputs]
OUTPUT = 11  # address of [rows, PITCH]; of [inputs, PITCH] for `unpack`, int8 without its scales
PITCH = 12  # columns of the output
WIDE = 13  # whether the output is float32; else bfloat16
FIELDS = 14

PANEL = 64
GROUP = 32  # inputs that share a scale in int4
ROWS_AT_ONCE = 4
_VECTORS = PANEL // LANES
_AHEAD = 4096  # bytes between what is read and what is asked for; without asking a product takes 1.4 times as long


def _codes8(b: Any, panel: Any, index: Any) -> Values:
    """Return the codes of one input for the 64 outputs of a panel, as four vectors of float32."""
    place = element(b, panel, index, PANEL)
    fetch(b, b.add(place, I64(_AHEAD)))
    return [b.sitofp(b.sext(read(b, place, LANES * v, I8), many(I32)), many(F32)) for v in range(_VECTORS)]


def _codes4(b: Any, panel: Any, index: Any) -> Values:
    place = element(b, panel, index, PANEL // 2)
    fetch(b, b.add(place, I64(_AHEAD)))
    both = [b.sext(read(b, place, LANES * v, I8), many(I32)) for v in range(_VECTORS // 2)]
    low = [b.ashr(b.shl(each, constant(I32, 28)), constant(I32, 28)) for each in both]
    high = [b.ashr(each, constant(I32, 4)) for each in both]
    return [b.sitofp(each, many(F32)) for each in low + high]


def _scales4(b: Any, scales: Any, group: Any) -> Values:
    place = element(b, scales, group, 2 * PANEL)
    bits = [b.zext(read(b, place, 2 * LANES * v, I16), many(I32)) for v in range(_VECTORS)]
    return [b.bitcast(b.shl(each, constant(I32, 16)), many(F32)) for each in bits]


def _accumulate(b: Any, sums: Values, weights: Values, x: Any, width: Any, index: Any) -> Values:
    """Add the products of one input to the sums of all rows, `[rows, 4]`; `x` is the address of the first row."""
    made = []
    for row in range(len(sums) // _VECTORS):
        value = broadcast(b, element(b, x, b.add(b.mul(width, I64(row)), index), 4))
        own = sums[row * _VECTORS : (row + 1) * _VECTORS]
        made += [fma(b, weight, value, each) for weight, each in zip(weights, own, strict=True)]
    return made


def _sums8(b: Any, rows: int, panel: Any, scales: Any, x: Any, width: Any) -> Values:
    """Return the products of some rows with a panel."""
    zero = [constant(F32, 0.0)] * (rows * _VECTORS)
    sums = loop(b, width, zero, lambda i, given: _accumulate(b, given, _codes8(b, panel, i), x, width, i))
    factors = [read(b, scales, 4 * LANES * v, F32) for v in range(_VECTORS)]
    return [b.fmul(each, factors[n % _VECTORS]) for n, each in enumerate(sums)]


def _sums4(b: Any, rows: int, panel: Any, scales: Any, x: Any, width: Any) -> Values:
    zero = [constant(F32, 0.0)] * (rows * _VECTORS)

    def group(number: Any, sums: Values) -> Values:
        factors = _scales4(b, scales, number)
        first = b.mul(number, I64(GROUP))

        def scaled(offset: Any, given: Values) -> Values:
            index = b.add(first, offset)
            weights = [b.fmul(*pair) for pair in zip(_codes4(b, panel, index), factors, strict=True)]
            return _accumulate(b, given, weights, x, width, index)

        def plain(offset: Any, given: Values) -> Values:
            index = b.add(first, offset)
            return _accumulate(b, given, _codes4(b, panel, index), x, width, index)

        if rows > 2:  # sums of the group would not fit into the registers
            return loop(b, I64(GROUP), sums, scaled)
        own = loop(b, I64(GROUP), zero, plain)
        return [fma(b, each, factors[n % _VECTORS], sums[n]) for n, each in enumerate(own)]

    return loop(b, b.sdiv(width, I64(GROUP)), zero, group)


def _put(b: Any, output: Any, place: Any, wide: Any, values: Values) -> None:
    """Store 64 values from column `place` on, as float32 or bfloat16."""
    with b.if_else(b.icmp_signed("!=", wide, I64(0))) as (yes, no):
        with yes:
            for v, value in enumerate(values):
                write(b, element(b, output, place, 4), 4 * LANES * v, value)
        with no:
            for v, value in enumerate(values):
                write(b, element(b, output, place, 2), 2 * LANES * v, bfloat16(b, value))


def _fields(b: Any, job: Any, *names: int) -> Values:
    return [b.load(pointer(b, b.add(job, I64(8 * name)), I64)) for name in names]


def _panel(b: Any, job: Any, number: Any) -> tuple[Any, Any]:
    """Return the addresses of a panel's codes and scales."""
    codes, codes_step, scales, scales_step = _fields(b, job, CODES, CODES_STEP, SCALES, SCALES_STEP)
    return b.add(codes, b.mul(number, codes_step)), b.add(scales, b.mul(number, scales_step))


def _tile(rows: int, sums: Callable[..., Values]) -> Any:
    """Return an intrinsic: multiply `rows` rows from `row` on with the panel `number`, add the bias, store."""

    def generate(c: Any, b: Any, s: Any, arguments: Sequence[Any]) -> Any:
        job, number, row = arguments
        panel, scales = _panel(b, job, number)
        bias, x, output, width, pitch, wide = _fields(b, job, BIAS, INPUT, OUTPUT, WIDTH, PITCH, WIDE)
        column = b.mul(number, I64(PANEL))
        added = [read(b, element(b, bias, column, 4), 4 * LANES * v, F32) for v in range(_VECTORS)]
        found = sums(b, rows, panel, scales, element(b, x, b.mul(row, width), 4), width)
        for n in range(rows):
            own = found[n * _VECTORS : (n + 1) * _VECTORS]
            place = b.add(b.mul(b.add(row, I64(n)), pitch), column)
            _put(b, output, place, wide, [b.fadd(*pair) for pair in zip(own, added, strict=True)])
        return c.get_dummy_value()

    return _of_three(generate)


def _writer(bits: int) -> Any:
    """Return an intrinsic: write out the weights of the panel `number`, input by input; `row` has no meaning."""

    def generate(c: Any, b: Any, s: Any, arguments: Sequence[Any]) -> Any:
        job, number, _ = arguments
        panel, scales = _panel(b, job, number)
        output, width, pitch, wide = _fields(b, job, OUTPUT, WIDTH, PITCH, WIDE)

        column = b.mul(number, I64(PANEL))

        def plain(index: Any, given: Values) -> Values:
            _put(b, output, b.add(b.mul(index, pitch), column), wide, _codes8(b, panel, index))
            return given

        def group(g: Any, given: Values) -> Values:
            def scaled(offset: Any, factors: Values) -> Values:
                index = b.add(b.mul(g, I64(GROUP)), offset)
                weights = [b.fmul(*pair) for pair in zip(_codes4(b, panel, index), factors, strict=True)]
                _put(b, output, b.add(b.mul(index, pitch), column), wide, weights)
                return factors

            loop(b, I64(GROUP), _scales4(b, scales, g), scaled)
            return given

        loop(b, width if bits == 8 else b.sdiv(width, I64(GROUP)), [], plain if bits == 8 else group)
        return c.get_dummy_value()

    return _of_three(generate)


def _of_three(generate: Callable[..., Any]) -> Any:
    @intrinsic
    def made(_: Any, job: Any, number: Any, row: Any) -> Any:
        return types.void(types.int64, types.int64, types.int64), generate

    return made


@intrinsic
def _field(_: Any, job: Any, name: Any) -> Any:
    """Return a field of a job."""

    def generate(c: Any, b: Any, s: Any, args: Any) -> Any:
        return b.load(pointer(b, element(b, args[0], args[1], 8), I64))

    return types.int64(types.int64, types.int64), generate


@intrinsic
def _take(_: Any, address: Any, count: Any) -> Any:
    """Add to an int64 that other threads add to as well; return what it was."""

    def generate(c: Any, b: Any, s: Any, args: Any) -> Any:
        return b.atomic_rmw("add", pointer(b, args[0], I64), args[1], "seq_cst")

    return types.int64(types.int64, types.int64), generate


def _multiplier(sums: Callable[..., Values]) -> Any:
    one, two, three, four = (_tile(rows, sums) for rows in range(1, ROWS_AT_ONCE + 1))

    @njit
    def multiply(job: Any, panel: Any) -> None:
        """Multiply all rows with a panel; after the first ones its codes are in the cache."""
        row, rows = 0, _field(job, ROWS)
        while rows - row >= ROWS_AT_ONCE:
            four(job, panel, row)
            row += ROWS_AT_ONCE
        if rows - row == 3:
            three(job, panel, row)
        elif rows - row == 2:
            two(job, panel, row)
        elif rows - row == 1:
            one(job, panel, row)

    return multiply


def _unpacker(bits: int) -> Any:
    put = _writer(bits)

    @njit
    def unpack(job: Any, panel: Any) -> None:
        put(job, panel, 0)

    return unpack


def _runner(work: Any) -> Any:
    @njit
    def run(job: Any) -> None:
        """Take panels until none is left."""
        share, panels = _field(job, SHARE), _field(job, PANELS)
        first = _take(job, share)
        while first < panels:
            for panel in range(first, min(first + share, panels)):
                work(job, panel)
            first = _take(job, share)

    return run


_int8, _int4 = _runner(_multiplier(_sums8)), _runner(_multiplier(_sums4))
_unpack8, _unpack4 = _runner(_unpacker(8)), _runner(_unpacker(4))


@cfunc(types.void(types.int64), cache=True)
def int8(job: Any) -> None:
    """Multiply rows with int8 weights."""
    _int8(job)


@cfunc(types.void(types.int64), cache=True)
def int4(job: Any) -> None:
    """Multiply rows with int4 weights."""
    _int4(job)


@cfunc(types.void(types.int64), cache=True)
def unpack8(job: Any) -> None:
    """Write int8 codes out as numbers."""
    _unpack8(job)


@cfunc(types.void(types.int64), cache=True)
def unpack4(job: Any) -> None:
    """Write int4 weights out as numbers."""
    _unpack4(job)
