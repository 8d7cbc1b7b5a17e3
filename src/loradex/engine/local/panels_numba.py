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

from llvmlite import ir
from numba import cfunc, njit, types
from numba.core import cgutils
from numba.extending import intrinsic

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
_LANES = 16
_VECTORS = PANEL // _LANES
_AHEAD = 4096  # bytes between what is read and what is asked for; without asking a product takes 1.4 times as long
_I8, _I16, _I32, _I64, _F32 = (*map(ir.IntType, (8, 16, 32, 64)), ir.FloatType())

Values = list[Any]
"""Vectors of 16 float32, four for the 64 outputs of a panel."""


def _many(kind: Any) -> Any:
    return ir.VectorType(kind, _LANES)


def _constant(kind: Any, value: float) -> Any:
    return ir.Constant(_many(kind), [value] * _LANES)


def _pointer(b: Any, address: Any, kind: Any) -> Any:
    return b.inttoptr(address, kind.as_pointer())


def _read(b: Any, address: Any, offset: int, kind: Any) -> Any:
    """Load a vector that may lie anywhere."""
    return b.load(_pointer(b, b.add(address, _I64(offset)), _many(kind)), align=1)


def _write(b: Any, address: Any, offset: int, value: Any) -> None:
    b.store(value, _pointer(b, b.add(address, _I64(offset)), value.type), align=1)


def _element(b: Any, base: Any, index: Any, size: int) -> Any:
    """Return the address of an element."""
    return b.add(base, b.mul(index, _I64(size)))


def _broadcast(b: Any, address: Any) -> Any:
    """Return a vector that holds the float32 at an address 16 times."""
    empty = ir.Constant(_many(_F32), ir.Undefined)
    one = b.insert_element(empty, b.load(_pointer(b, address, _F32), align=4), _I32(0))
    return b.shuffle_vector(one, empty, ir.Constant(_many(_I32), [0] * _LANES))


def _fma(b: Any, x: Any, y: Any, z: Any) -> Any:
    """Return `x * y + z`."""
    kind = ir.FunctionType(x.type, [x.type] * 3)
    return b.call(cgutils.get_or_insert_function(b.module, kind, f"llvm.fma.v{_LANES}f32"), [x, y, z])


def _fetch(b: Any, address: Any) -> None:
    """Ask for the cache line at an address, which need not exist."""
    byte = _I8.as_pointer()
    kind = ir.FunctionType(ir.VoidType(), [byte, _I32, _I32, _I32])
    fetch = b.module.declare_intrinsic("llvm.prefetch", [byte], kind)
    b.call(fetch, [b.inttoptr(address, byte), _I32(0), _I32(3), _I32(1)])


def _loop(b: Any, count: Any, carried: Values, body: Callable[[Any, Values], Values]) -> Values:
    """Run `body` for 0 to `count - 1` (at least once); what it returns is what the next run gets, in registers."""
    before, inside, after = b.block, b.append_basic_block("loop"), b.append_basic_block("done")
    b.branch(inside)
    b.position_at_end(inside)
    index = b.phi(_I64)
    index.add_incoming(_I64(0), before)
    given = [b.phi(value.type) for value in carried]
    for phi, value in zip(given, carried, strict=True):
        phi.add_incoming(value, before)
    made = body(index, given)
    following = b.add(index, _I64(1))
    for phi, value in zip([index, *given], [following, *made], strict=True):
        phi.add_incoming(value, b.block)
    b.cbranch(b.icmp_signed("<", following, count), inside, after)
    b.position_at_end(after)
    return made


def _codes8(b: Any, panel: Any, index: Any) -> Values:
    """Return the codes of one input for the 64 outputs of a panel, as float32."""
    place = _element(b, panel, index, PANEL)
    _fetch(b, b.add(place, _I64(_AHEAD)))
    return [b.sitofp(b.sext(_read(b, place, _LANES * v, _I8), _many(_I32)), _many(_F32)) for v in range(_VECTORS)]


def _codes4(b: Any, panel: Any, index: Any) -> Values:
    place = _element(b, panel, index, PANEL // 2)
    _fetch(b, b.add(place, _I64(_AHEAD)))
    both = [b.sext(_read(b, place, _LANES * v, _I8), _many(_I32)) for v in range(_VECTORS // 2)]
    low = [b.ashr(b.shl(each, _constant(_I32, 28)), _constant(_I32, 28)) for each in both]
    high = [b.ashr(each, _constant(_I32, 4)) for each in both]
    return [b.sitofp(each, _many(_F32)) for each in low + high]


def _scales4(b: Any, scales: Any, group: Any) -> Values:
    place = _element(b, scales, group, 2 * PANEL)
    bits = [b.zext(_read(b, place, 2 * _LANES * v, _I16), _many(_I32)) for v in range(_VECTORS)]
    return [b.bitcast(b.shl(each, _constant(_I32, 16)), _many(_F32)) for each in bits]


def _accumulate(b: Any, sums: Values, weights: Values, x: Any, width: Any, index: Any) -> Values:
    """Add the products of one input to the sums of all rows, `[rows, 4]`; `x` is the address of the first row."""
    made = []
    for row in range(len(sums) // _VECTORS):
        value = _broadcast(b, _element(b, x, b.add(b.mul(width, _I64(row)), index), 4))
        own = sums[row * _VECTORS : (row + 1) * _VECTORS]
        made += [_fma(b, weight, value, each) for weight, each in zip(weights, own, strict=True)]
    return made


def _sums8(b: Any, rows: int, panel: Any, scales: Any, x: Any, width: Any) -> Values:
    """Return the products of some rows with a panel."""
    zero = [_constant(_F32, 0.0)] * (rows * _VECTORS)
    sums = _loop(b, width, zero, lambda i, given: _accumulate(b, given, _codes8(b, panel, i), x, width, i))
    factors = [_read(b, scales, 4 * _LANES * v, _F32) for v in range(_VECTORS)]
    return [b.fmul(each, factors[n % _VECTORS]) for n, each in enumerate(sums)]


def _sums4(b: Any, rows: int, panel: Any, scales: Any, x: Any, width: Any) -> Values:
    zero = [_constant(_F32, 0.0)] * (rows * _VECTORS)

    def group(number: Any, sums: Values) -> Values:
        factors = _scales4(b, scales, number)
        first = b.mul(number, _I64(GROUP))

        def scaled(offset: Any, given: Values) -> Values:
            index = b.add(first, offset)
            weights = [b.fmul(*pair) for pair in zip(_codes4(b, panel, index), factors, strict=True)]
            return _accumulate(b, given, weights, x, width, index)

        def plain(offset: Any, given: Values) -> Values:
            index = b.add(first, offset)
            return _accumulate(b, given, _codes4(b, panel, index), x, width, index)

        if rows > 2:  # sums of the group would not fit into the registers
            return _loop(b, _I64(GROUP), sums, scaled)
        own = _loop(b, _I64(GROUP), zero, plain)
        return [_fma(b, each, factors[n % _VECTORS], sums[n]) for n, each in enumerate(own)]

    return _loop(b, b.sdiv(width, _I64(GROUP)), zero, group)


def _bfloat16(b: Any, value: Any) -> Any:
    """Round to the nearest bfloat16, ties to even; a NaN stays one."""
    bits = b.bitcast(value, _many(_I32))
    odd = b.and_(b.lshr(bits, _constant(_I32, 16)), _constant(_I32, 1))
    nearest = b.add(b.add(bits, odd), _constant(_I32, 0x7FFF))
    quiet = b.or_(bits, _constant(_I32, 0x00400000))
    chosen = b.select(b.fcmp_unordered("uno", value, value), quiet, nearest)
    return b.trunc(b.lshr(chosen, _constant(_I32, 16)), _many(_I16))


def _put(b: Any, output: Any, place: Any, wide: Any, values: Values) -> None:
    """Store 64 values from column `place` on, as float32 or bfloat16."""
    with b.if_else(b.icmp_signed("!=", wide, _I64(0))) as (yes, no):
        with yes:
            for v, value in enumerate(values):
                _write(b, _element(b, output, place, 4), 4 * _LANES * v, value)
        with no:
            for v, value in enumerate(values):
                _write(b, _element(b, output, place, 2), 2 * _LANES * v, _bfloat16(b, value))


def _fields(b: Any, job: Any, *names: int) -> Values:
    return [b.load(_pointer(b, b.add(job, _I64(8 * name)), _I64)) for name in names]


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
        column = b.mul(number, _I64(PANEL))
        added = [_read(b, _element(b, bias, column, 4), 4 * _LANES * v, _F32) for v in range(_VECTORS)]
        found = sums(b, rows, panel, scales, _element(b, x, b.mul(row, width), 4), width)
        for n in range(rows):
            own = found[n * _VECTORS : (n + 1) * _VECTORS]
            place = b.add(b.mul(b.add(row, _I64(n)), pitch), column)
            _put(b, output, place, wide, [b.fadd(*pair) for pair in zip(own, added, strict=True)])
        return c.get_dummy_value()

    return _of_three(generate)


def _writer(bits: int) -> Any:
    """Return an intrinsic: write out the weights of the panel `number`, input by input; `row` has no meaning."""

    def generate(c: Any, b: Any, s: Any, arguments: Sequence[Any]) -> Any:
        job, number, _ = arguments
        panel, scales = _panel(b, job, number)
        output, width, pitch, wide = _fields(b, job, OUTPUT, WIDTH, PITCH, WIDE)

        column = b.mul(number, _I64(PANEL))

        def plain(index: Any, given: Values) -> Values:
            _put(b, output, b.add(b.mul(index, pitch), column), wide, _codes8(b, panel, index))
            return given

        def group(g: Any, given: Values) -> Values:
            def scaled(offset: Any, factors: Values) -> Values:
                index = b.add(b.mul(g, _I64(GROUP)), offset)
                weights = [b.fmul(*pair) for pair in zip(_codes4(b, panel, index), factors, strict=True)]
                _put(b, output, b.add(b.mul(index, pitch), column), wide, weights)
                return factors

            _loop(b, _I64(GROUP), _scales4(b, scales, g), scaled)
            return given

        _loop(b, width if bits == 8 else b.sdiv(width, _I64(GROUP)), [], plain if bits == 8 else group)
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
        return b.load(_pointer(b, _element(b, args[0], args[1], 8), _I64))

    return types.int64(types.int64, types.int64), generate


@intrinsic
def _take(_: Any, address: Any, count: Any) -> Any:
    """Add to an int64 that other threads add to as well; return what it was."""

    def generate(c: Any, b: Any, s: Any, args: Any) -> Any:
        return b.atomic_rmw("add", _pointer(b, args[0], _I64), args[1], "seq_cst")

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
    write = _writer(bits)

    @njit
    def unpack(job: Any, panel: Any) -> None:
        write(job, panel, 0)

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
