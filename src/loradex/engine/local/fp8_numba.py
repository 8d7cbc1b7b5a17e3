"""Reading a cache of 8-bit floats, compiled by Numba: cells are gathered and widened in one pass.

Torch widens e4m3 one value at a time: for 16 sequences of 512 tokens that took longer than all else in a step. Here it
is arithmetic on bits, 16 values at a time. `gathered` takes the address of a job, int64 fields as named below, and may
run on several threads, which are torch's (see `team`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import cfunc, types
from numba.extending import intrinsic

from loradex.engine.local.lora_numba import _add, _words
from loradex.engine.local.vectors import (
    F32,
    I8,
    I16,
    I32,
    I64,
    LANES,
    Values,
    broadcast,
    constant,
    element,
    loop,
    many,
    read,
    write,
)

# The fields of a job. A change here must stay in this file: the cache on disk looks at no other.
TAKEN = 0  # cells taken so far; 0 at the start, and the first field
COUNT = 1  # cells to read
SIZE = 2  # values of a cell, a multiple of LANES
POOL = 3  # address of uint8 [all cells, SIZE]
CELLS = 4  # address of int64 [COUNT]
OUTPUT = 5  # address of float32 or bfloat16 [COUNT, SIZE]
WIDE = 6  # whether the output is float32
SCALE = 7  # the float32 that values are multiplied by, a power of two, in the first four bytes
FIELDS = 8

_SHARE = 32  # cells that a thread takes at a time
_NAN = 0x7FC00000


def _widened(b: Any, codes: Any, scale: Any) -> Any:
    """Return the float32 that e4m3 codes mean, times `scale` (OCP 8-bit floating point, revision 1.0, section 5.3)."""
    wide = b.zext(codes, many(I32))
    size = b.and_(wide, constant(I32, 0x7F))
    # Four bits of exponent with bias 7 and three of mantissa, moved to where float32 has its own, with bias 127.
    normal = b.bitcast(b.add(b.shl(size, constant(I32, 20)), constant(I32, 120 << 23)), many(F32))
    small = b.fmul(b.uitofp(size, many(F32)), constant(F32, 2.0**-9))
    value = b.fmul(b.select(b.icmp_unsigned("<", size, constant(I32, 8)), small, normal), scale)
    bits = b.select(b.icmp_unsigned("==", size, constant(I32, 0x7F)), constant(I32, _NAN), b.bitcast(value, many(I32)))
    return b.or_(bits, b.shl(b.and_(wide, constant(I32, 0x80)), constant(I32, 24)))


@intrinsic
def _cell(_: Any, codes: Any, output: Any, vectors: Any, scale: Any, wide: Any) -> Any:
    """Widen one cell of so many vectors; `scale` is the address of its float32."""

    def generate(c: Any, b: Any, s: Any, args: Any) -> Any:
        codes, output, vectors, scale, wide = args
        factor = broadcast(b, scale)
        is_wide = b.icmp_signed("!=", wide, I64(0))

        def one(index: Any, carried: Values) -> Values:
            bits = _widened(b, read(b, element(b, codes, index, LANES), 0, I8), factor)
            with b.if_else(is_wide) as (yes, no):  # both dtypes hold every code exactly
                with yes:
                    write(b, element(b, output, index, 4 * LANES), 0, bits)
                with no:
                    half = b.trunc(b.lshr(bits, constant(I32, 16)), many(I16))
                    write(b, element(b, output, index, 2 * LANES), 0, half)
            return carried

        loop(b, vectors, [], one)
        return c.get_dummy_value()

    return types.void(*[types.int64] * 5), generate


@cfunc(types.void(types.int64), cache=True)
def gathered(address: Any) -> None:
    """Write the values of some cells, one cell after another."""
    job = _words(address, FIELDS, np.int64(0))
    count, size, pool, output, wide = job[COUNT], job[SIZE], job[POOL], job[OUTPUT], job[WIDE]
    cells = _words(job[CELLS], count, np.int64(0))
    width = 4 if wide else 2
    first = _add(address, _SHARE)
    while first < count:
        for i in range(first, min(first + _SHARE, count)):
            _cell(pool + cells[i] * size, output + width * i * size, size // LANES, address + 8 * SCALE, wide)
        first = _add(address, _SHARE)
