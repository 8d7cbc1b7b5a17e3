"""The product of few rows with the weights of a base linear as oneDNN packs them, compiled by Numba.

oneDNN reads its own packed weights at three quarters of what memory gives when there are few rows: nothing asks for
the next lines while the present ones are used. This kernel does. The layout is `[out / 64, in / 2, 64, 2]`: for 64
outputs at a time, two inputs side by side in a 32-bit word. Processors with AVX-512 BF16 multiply and add such words at
once; for others a shift makes the first a float32 and a mask the second, which pays for fewer rows. The inner loop is
written in LLVM's own vectors of 16 values; sums are float32, in the order of the inputs, on any number of threads.

Importing this module compiles it (seconds; a cache on disk makes the next import quick). `kernel` is a C function that
takes the address of a job, int64 fields as named below. Several threads may run one job, and go on with the LoRA job of
the same rows: so that needs no call of its own, and nobody waits in between.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from llvmlite.binding import get_host_cpu_features
from numba import cfunc, njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from loradex.engine.local.lora_numba import _add, _words, expand_pieces, shrink_pieces

# The fields of a job. A change here must stay in this file: the cache on disk looks at no other.
TAKEN = 0  # blocks taken so far; 0 at the start, and the first field
INPUT = 1  # address of bfloat16 [rows, in]
OUTPUT = 2  # address of bfloat16 [rows, out]
WEIGHTS = 3  # address of bfloat16 [out / 64, in / 2, 64, 2]
BIAS = 4  # address of bfloat16 [out]
PAIRS = 5  # in / 2
BLOCKS = 6  # out / 64
DONE = 7  # blocks that are done; 0 at the start
LORA = 8  # address of a job of the LoRA kernel for the same rows, which is done as well; 0 for none
SIZE = 9  # place in `SIZES` of the number of rows
FIELDS = 10

WORDS_AT_ONCE = bool(get_host_cpu_features().get("avx512bf16"))
"""Whether the processor multiplies words as they lie."""

SIZES = (1, 2, 4, 6, 8, 12, 16) if WORDS_AT_ONCE else (1, 2, 3, 4, 4, 4, 4)
"""Numbers of rows that a job may have, ascending."""

BLOCK = 64
"""Outputs that lie together."""

_LANES, _VECTORS = 16, 4  # values of a vector, vectors of a block
_SUMS = 28  # registers that sums may take: four are left for weights and inputs
_AHEAD = 8192  # bytes from what is used to what is asked for
_I16, _I32, _I64, _FLOAT = ir.IntType(16), ir.IntType(32), ir.IntType(64), ir.FloatType()
_BYTES = ir.IntType(8).as_pointer()
_FLOATS, _WORDS, _HALVES = (ir.VectorType(kind, _LANES) for kind in (_FLOAT, _I32, _I16))


class _BFloat(ir.Type):
    """LLVM's bfloat16, which llvmlite has no name for."""

    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _BFloat)

    def __hash__(self) -> int:
        return hash(_BFloat)


_PAIRS = ir.VectorType(_BFloat(), 2 * _LANES)


def _all(value: int | float, kind: ir.VectorType) -> ir.Constant:
    return ir.Constant(kind, [value] * _LANES)


def _spread(b: Any, value: Any, kind: ir.VectorType = _FLOATS) -> Any:
    """Return a vector of one value."""
    alone = b.insert_element(ir.Constant(kind, ir.Undefined), value, _I32(0))
    return b.shuffle_vector(alone, alone, _all(0, _WORDS))


def _halves(b: Any, words: Any, floats: Any) -> tuple[Any, Any]:
    """Return the first and the second values of words (a vector or one) as float32."""
    one = not isinstance(words.type, ir.VectorType)
    shift, mask = (_I32(16), _I32(0xFFFF0000)) if one else (_all(16, _WORDS), _all(0xFFFF0000, _WORDS))
    return b.bitcast(b.shl(words, shift), floats), b.bitcast(b.and_(words, mask), floats)


def _rounded(b: Any, values: Any) -> Any:
    """Return float32 as the bits of the nearest bfloat16, ties to even; a NaN stays one."""
    bits, upper = b.bitcast(values, _WORDS), _all(16, _WORDS)
    odd = b.and_(b.lshr(bits, upper), _all(1, _WORDS))
    nearest = b.add(bits, b.add(odd, _all(0x7FFF, _WORDS)))
    quiet = b.or_(bits, _all(0x00400000, _WORDS))
    return b.trunc(b.lshr(b.select(b.fcmp_unordered("uno", values, values), quiet, nearest), upper), _HALVES)


def _load(b: Any, address: Any, kind: Any, align: int) -> Any:
    return b.load(b.inttoptr(address, kind.as_pointer()), align=align)


def _block_of(rows: int, vectors: int) -> Any:
    """Return what computes some vectors of a block of outputs for so many rows."""

    @intrinsic
    def block(_: Any, weights: Any, pairs: Any, x: Any, bias: Any, y: Any, width: Any) -> Any:
        """Write outputs of each row to `y`, whose rows are `width` values apart."""

        def generate(c: Any, b: Any, s: Any, args: Any) -> Any:
            weights, pairs, x, bias, y, width = args
            sums = [[cgutils.alloca_once_value(b, _all(0.0, _FLOATS)) for _ in range(vectors)] for _ in range(rows)]
            accumulate = _accumulate_words if WORDS_AT_ONCE else _accumulate_halves
            accumulate(b, sums, weights, pairs, x)
            for v in range(vectors):
                halves = _load(b, b.add(bias, _I64(2 * _LANES * v)), _HALVES, 2)
                add = b.bitcast(b.shl(b.zext(halves, _WORDS), _all(16, _WORDS)), _FLOATS)
                for row in range(rows):
                    out = b.add(y, b.add(b.mul(width, _I64(2 * row)), _I64(2 * _LANES * v)))
                    total = _rounded(b, b.fadd(b.load(sums[row][v]), add))
                    b.store(total, b.inttoptr(out, _HALVES.as_pointer()), align=2)
            return c.get_dummy_value()

        return types.void(*[types.int64] * 6), generate

    return block


def _accumulate_words(b: Any, sums: Any, weights: Any, pairs: Any, x: Any) -> None:
    """Add the products of all inputs to the sums, a word at a time."""
    kind = ir.FunctionType(_FLOATS, [_FLOATS, _PAIRS, _PAIRS])
    dot = cgutils.get_or_insert_function(b.module, kind, "llvm.x86.avx512bf16.dpbf16ps.512")
    with cgutils.for_range(b, pairs) as loop:
        here = b.add(weights, b.mul(loop.index, _I64(4 * BLOCK)))
        words = [_weights(b, here, v, _PAIRS) for v in range(len(sums[0]))]
        for row, own in enumerate(sums):
            inputs = b.bitcast(_spread(b, _inputs(b, x, row, pairs, loop.index), _WORDS), _PAIRS)
            for total, word in zip(own, words, strict=True):
                b.store(b.call(dot, [b.load(total), word, inputs]), total)


def _accumulate_halves(b: Any, sums: Any, weights: Any, pairs: Any, x: Any) -> None:
    """Add the products of all inputs to the sums, the first values of the words and then the second."""
    three = ir.FunctionType(_FLOATS, [_FLOATS] * 3)
    fma = cgutils.get_or_insert_function(b.module, three, f"llvm.fma.v{_LANES}f32")
    with cgutils.for_range(b, pairs) as loop:
        here = b.add(weights, b.mul(loop.index, _I64(4 * BLOCK)))
        inputs = []
        for row in range(len(sums)):
            word = _inputs(b, x, row, pairs, loop.index)
            inputs.append([_spread(b, half) for half in _halves(b, word, _FLOAT)])
        for v in range(len(sums[0])):
            low, high = _halves(b, _weights(b, here, v, _WORDS), _FLOATS)
            for own, (first, second) in zip(sums, inputs, strict=True):
                total = b.call(fma, [low, first, b.load(own[v])])
                b.store(b.call(fma, [high, second, total]), own[v])


def _weights(b: Any, here: Any, vector: int, kind: ir.VectorType) -> Any:
    """Return a vector of weights, and ask for what is used next."""
    fetch = b.module.declare_intrinsic(
        "llvm.prefetch", [_BYTES], ir.FunctionType(ir.VoidType(), [_BYTES, _I32, _I32, _I32])
    )
    at = b.add(here, _I64(4 * _LANES * vector))
    b.call(fetch, [b.inttoptr(b.add(at, _I64(_AHEAD)), _BYTES), _I32(0), _I32(3), _I32(1)])
    return _load(b, at, kind, 64)


def _inputs(b: Any, x: Any, row: int, pairs: Any, index: Any) -> Any:
    """Return two inputs of a row, in a word."""
    return _load(b, b.add(x, b.mul(b.add(b.mul(pairs, _I64(row)), index), _I64(4))), _I32, 2)


def _vectors(rows: int) -> int:
    """Return how many vectors of outputs have room for their sums, for so many rows."""
    return next(count for count in (4, 2, 1) if rows * count <= _SUMS)


# One by one and not in a loop: what a function gets from around it, Numba would compile again in every process.
_BLOCK_0, _BLOCK_1, _BLOCK_2, _BLOCK_3, _BLOCK_4, _BLOCK_5, _BLOCK_6 = (
    _block_of(rows, _vectors(rows)) for rows in SIZES
)
_PARTS = tuple(_VECTORS // _vectors(rows) for rows in SIZES)


@njit
def _block(size: Any, weights: Any, pairs: Any, x: Any, bias: Any, y: Any, width: Any) -> None:
    if size == 0:
        _BLOCK_0(weights, pairs, x, bias, y, width)
    elif size == 1:
        _BLOCK_1(weights, pairs, x, bias, y, width)
    elif size == 2:
        _BLOCK_2(weights, pairs, x, bias, y, width)
    elif size == 3:
        _BLOCK_3(weights, pairs, x, bias, y, width)
    elif size == 4:
        _BLOCK_4(weights, pairs, x, bias, y, width)
    elif size == 5:
        _BLOCK_5(weights, pairs, x, bias, y, width)
    else:
        _BLOCK_6(weights, pairs, x, bias, y, width)


@cfunc(types.void(types.int64), cache=True)
def kernel(address: Any) -> None:
    """Run a job."""
    job = _words(address, FIELDS, np.int64(0))
    pairs, blocks, parts = job[PAIRS], job[BLOCKS], _PARTS[job[SIZE]]
    taken, done = _add(address, 1), 0
    while taken < blocks:
        weights, place = job[WEIGHTS] + 4 * BLOCK * pairs * taken, 2 * BLOCK * taken
        for part in range(parts):  # the first brings the block into the cache
            w, own = weights + 4 * BLOCK // parts * part, place + 2 * BLOCK // parts * part
            _block(job[SIZE], w, pairs, job[INPUT], job[BIAS] + own, job[OUTPUT] + own, blocks * BLOCK)
        taken, done = _add(address, 1), done + 1
    lora = job[LORA]
    if lora:
        _add(address + 8 * DONE, done)
        piece = shrink_pieces(lora, np.uint32(0))
        while _add(address + 8 * DONE, 0) < blocks:
            pass
        expand_pieces(lora, piece, np.uint32(0))
