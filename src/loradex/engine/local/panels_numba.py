"""Products with bfloat16, int8 and int4 weights, compiled by Numba.

Importing this module compiles it (seconds; a cache on disk makes the next import quick). It holds C functions that take
the address of a job, int64 fields as named below: `bf16`, `int8` and `int4` multiply, `unpack8` and `unpack4` write the
weights out for a dense product. Several threads may run one job, and go on with the LoRA job of the same rows; they are
torch's (see `team`).

Weights become float32 in registers only, or in int4 integers, where the input was made integers before.

Weights lie in panels of 64 outputs, and in a panel input by input: a product reads them from front to back, adds each
input to sums that stay in registers, and needs no sum across a register. Processors with 32 registers of 16 values
(AVX-512) take the 64 outputs of an input at once. Others have room for the sums of 64 outputs of one row, or of 16 of
six: for them 16 outputs lie together (`STRIP`), so that memory is read from front to back then, too. The loops are
written for LLVM, as its vectorizer does not keep such a tile in registers: in Numba's own each sum went to memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numba import cfunc, njit, types
from numba.extending import intrinsic

from loradex.engine.local.lora_numba import expand_pieces, shrink_pieces
from loradex.engine.local.panel_int4 import inputs4, integers4, quantized, sums4
from loradex.engine.local.panel_tile import PANEL, STRIP, VECTORS, Tile, accumulate, codes8, codes16, zeros
from loradex.engine.local.vectors import (
    F32,
    I64,
    LANES,
    Values,
    bfloat16,
    element,
    loop,
    pointer,
    read,
    widen,
    write,
)

# The fields of a job. A change here must stay in this file: the cache on disk looks at no other.
TAKEN = 0  # panels taken so far; 0 at the start, and the first field
SHARE = 1  # panels that a thread takes at a time
PANELS = 2  # how many panels
WIDTH = 3  # inputs
ROWS = 4
CODES = 5  # address of the codes, see `laid`
CODES_STEP = 6  # bytes of a panel's codes
SCALES = 7  # address of the scales, see `laid`
SCALES_STEP = 8  # bytes of a panel's scales
BIAS = 9  # address of float32 [panels, 64]
INPUT = 10  # address of float32 [rows, inputs]; scratch for as much for each thread, if there is a RAW one
OUTPUT = 11  # address of [rows, PITCH]; of [inputs, PITCH] for `unpack`, int8 without its scales
PITCH = 12  # columns of the output
WIDE = 13  # whether the output is float32; else bfloat16
DONE = 14  # panels that are done; 0 at the start
LORA = 15  # address of a job of the LoRA kernel for the same rows, which is done as well; 0 for none
RAW = 16  # address of the input in bfloat16, 0 where it is float32; rows * inputs are then a multiple of 16. int4
#           then multiplies integers
THREADS = 17  # threads that have widened it; 0 at the start
FIELDS = 18

_ROWS_AT_ONCE, _INTEGERS_AT_ONCE = (4, 4) if STRIP == PANEL else (6, 2)


def _sums16(b: Any, tile: Tile, x: Any) -> Values:
    """Return the products of the tile's rows with its outputs."""
    return loop(b, tile.width, zeros(tile), lambda i, given: accumulate(b, tile, given, codes16(b, tile, i), x, i))


def _sums8(b: Any, tile: Tile, x: Any) -> Values:
    sums = loop(b, tile.width, zeros(tile), lambda i, given: accumulate(b, tile, given, codes8(b, tile, i), x, i))
    place = element(b, tile.scales, tile.first, 4 * LANES)
    factors = [read(b, place, 4 * LANES * v, F32) for v in range(tile.vectors)]
    return [b.fmul(each, factors[n % tile.vectors]) for n, each in enumerate(sums)]


def _put(b: Any, output: Any, place: Any, wide: Any, values: Values) -> None:
    """Store vectors from column `place` on, as float32 or bfloat16."""
    with b.if_else(b.icmp_signed("!=", wide, I64(0))) as (yes, no):
        with yes:
            for v, value in enumerate(values):
                write(b, element(b, output, place, 4), 4 * LANES * v, value)
        with no:
            for v, value in enumerate(values):
                write(b, element(b, output, place, 2), 2 * LANES * v, bfloat16(b, value))


def _fields(b: Any, job: Any, *names: int) -> Values:
    return [b.load(pointer(b, b.add(job, I64(8 * name)), I64)) for name in names]


def _tile_of(b: Any, job: Any, number: Any, rows: int, vectors: int, first: Any) -> Tile:
    """Return a tile of the panel `number`."""
    codes, step, scales, scales_step, width = _fields(b, job, CODES, CODES_STEP, SCALES, SCALES_STEP, WIDTH)
    panel = b.add(codes, b.mul(number, step))
    return Tile(rows, vectors, first, panel, b.add(scales, b.mul(number, scales_step)), width)


def _multiplied(rows: int, sums: Callable[..., Values]) -> Any:
    """Return an intrinsic: multiply `rows` rows from `row` on with outputs of the panel `number`, add the bias, store.

    `x` is the address of the input. The outputs are those of as many vectors as `_vectors` has for so many rows, from
    vector `first` on.
    """

    def generate(c: Any, b: Any, s: Any, arguments: Sequence[Any]) -> Any:
        job, number, x, row, first = arguments
        if _vectors(rows) == VECTORS:
            first = I64(0)  # known when compiled: bits are then moved by constants
        tile = _tile_of(b, job, number, rows, _vectors(rows), first)
        bias, output, pitch, wide = _fields(b, job, BIAS, OUTPUT, PITCH, WIDE)
        column = b.add(b.mul(number, I64(PANEL)), b.mul(first, I64(LANES)))
        added = [read(b, element(b, bias, column, 4), 4 * LANES * v, F32) for v in range(tile.vectors)]
        found = sums(b, tile, element(b, x, b.mul(row, tile.width), 4))
        for n in range(rows):
            own = found[n * tile.vectors : (n + 1) * tile.vectors]
            place = b.add(b.mul(b.add(row, I64(n)), pitch), column)
            _put(b, output, place, wide, [b.fadd(*pair) for pair in zip(own, added, strict=True)])
        return c.get_dummy_value()

    @intrinsic
    def made(_: Any, job: Any, number: Any, x: Any, row: Any, first: Any) -> Any:
        return types.void(*[types.int64] * 5), generate

    return made


def _writer(bits: int) -> Any:
    """Return an intrinsic: write out the weights of the panel `number`, input by input; the rest has no meaning."""

    def generate(c: Any, b: Any, s: Any, arguments: Sequence[Any]) -> Any:
        job, number = arguments
        tile = _tile_of(b, job, number, 1, VECTORS, I64(0))
        output, pitch, wide = _fields(b, job, OUTPUT, PITCH, WIDE)
        column = b.mul(number, I64(PANEL))

        def plain(index: Any, given: Values) -> Values:
            _put(b, output, b.add(b.mul(index, pitch), column), wide, codes8(b, tile, index))
            return given

        def weighted(index: Any, weights: Values, given: Values) -> Values:
            _put(b, output, b.add(b.mul(index, pitch), column), wide, weights)
            return given

        if bits == 8:
            loop(b, tile.width, [], plain)
        else:
            inputs4(b, tile, [], weighted)
        return c.get_dummy_value()

    @intrinsic
    def made(_: Any, job: Any, number: Any) -> Any:
        return types.void(types.int64, types.int64), generate

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


def _prepared(write: Callable[[Any, Any, Any, Any], None]) -> Any:
    """Return an intrinsic that writes `count` bfloat16 inputs at `source` as kernels read them, at `target`."""

    @intrinsic
    def made(_: Any, source: Any, count: Any, target: Any) -> Any:
        def generate(c: Any, b: Any, s: Any, args: Any) -> Any:
            write(b, *args)
            return c.get_dummy_value()

        return types.void(*[types.int64] * 3), generate

    return made


_widen, _quantize = _prepared(widen), _prepared(quantized)


def _vectors(rows: int) -> int:
    """Return how many vectors of outputs have room for their sums in registers, for so many rows."""
    return VECTORS if STRIP == PANEL or rows == 1 else 2 if rows < 4 else 1


def _multiplier(sums: Callable[..., Values], at_once: int = _ROWS_AT_ONCE) -> Any:
    """Return what multiplies all rows with a panel, as many at once as registers have room for."""
    tile, narrowest = _tiles(at_once, sums), _vectors(at_once)

    @njit(inline="always")
    def multiply(job: Any, panel: Any, x: Any) -> None:
        """Multiply all rows with a panel; after the first ones its codes are in the cache."""
        rows = _field(job, ROWS)
        tiles = (rows + at_once - 1) // at_once
        for first in range(0, VECTORS, narrowest):
            row = 0
            for number in range(tiles):
                count = (rows - row) // (tiles - number)
                tile(job, panel, x, row, count, first)
                row += count

    return multiply


def _tiles(most: int, sums: Callable[..., Values]) -> Any:
    """Return what multiplies up to `most` rows with the outputs from a vector on, if a tile of theirs begins there."""
    multiplied, vectors = _multiplied(most, sums), _vectors(most)

    @njit(inline="always")
    def one(job: Any, panel: Any, x: Any, row: Any, rows: Any, first: Any) -> None:
        if first % vectors == 0:
            multiplied(job, panel, x, row, first)

    if most == 1:
        return one
    fewer = _tiles(most - 1, sums)

    @njit(inline="always")
    def tile(job: Any, panel: Any, x: Any, row: Any, rows: Any, first: Any) -> None:
        if rows < most:
            fewer(job, panel, x, row, rows, first)
        elif first % vectors == 0:
            multiplied(job, panel, x, row, first)

    return tile


def _multiplier4() -> Any:
    floats, integers = _multiplier(sums4), _multiplier(integers4, _INTEGERS_AT_ONCE)

    @njit(inline="always")
    def multiply(job: Any, panel: Any, x: Any) -> None:
        """Multiply all rows with a panel, as integers where the input was written as such."""
        if _field(job, RAW):
            integers(job, panel, x)
        else:
            floats(job, panel, x)

    return multiply


def _unpacker(bits: int) -> Any:
    put = _writer(bits)

    @njit(inline="always")
    def unpack(job: Any, panel: Any, x: Any) -> None:
        put(job, panel)

    return unpack


def _runner(work: Any, prepare: Any = _widen) -> Any:
    @njit
    def run(job: Any) -> None:
        """Take panels until none is left, then pieces of the LoRA job."""
        share, panels, done, x = _field(job, SHARE), _field(job, PANELS), 0, _field(job, INPUT)
        if _field(job, RAW):
            count = _field(job, ROWS) * _field(job, WIDTH)
            x += 4 * count * _take(job + 8 * THREADS, 1)
            prepare(_field(job, RAW), count, x)
        first = _take(job, share)
        while first < panels:
            for panel in range(first, min(first + share, panels)):
                work(job, panel, x)
                done += 1
            first = _take(job, share)
        lora = _field(job, LORA)
        if lora:
            _take(job + 8 * DONE, done)
            piece = shrink_pieces(lora, np.uint32(0))
            while _take(job + 8 * DONE, 0) < panels:
                pass
            expand_pieces(lora, piece, np.uint32(0))

    return run


_bf16, _int8 = _runner(_multiplier(_sums16)), _runner(_multiplier(_sums8))
_int4 = _runner(_multiplier4(), _quantize)
_unpack8, _unpack4 = _runner(_unpacker(8)), _runner(_unpacker(4))


@cfunc(types.void(types.int64), cache=True)
def bf16(job: Any) -> None:
    """Multiply rows with bfloat16 weights."""
    _bf16(job)


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
