"""LLVM's own vectors of 16 values, in which kernels say what its vectorizer does not find by itself.

Every processor's registers divide such a vector. The functions emit instructions through a builder `b`; addresses are
int64. Numba's cache on disk does not look here: after a change, touch the kernels that import this.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from llvmlite.binding import get_host_cpu_features
from numba.core import cgutils

LANES = 16
I8, I16, I32, I64, F32 = (*map(ir.IntType, (8, 16, 32, 64)), ir.FloatType())

Values = list[Any]
"""What a builder makes: mostly vectors."""


_FEATURES = get_host_cpu_features()


def many(kind: Any, count: int = LANES) -> Any:
    """Return the type of a vector of these."""
    return ir.VectorType(kind, count)


def constant(kind: Any, value: float, count: int = LANES) -> Any:
    """Return a vector of one value."""
    return ir.Constant(many(kind, count), [value] * count)


def pointer(b: Any, address: Any, kind: Any) -> Any:
    """Return an address as a pointer."""
    return b.inttoptr(address, kind.as_pointer())


def read(b: Any, address: Any, offset: int, kind: Any) -> Any:
    """Load a vector that may lie anywhere."""
    return b.load(pointer(b, b.add(address, I64(offset)), many(kind)), align=1)


def write(b: Any, address: Any, offset: int, value: Any) -> None:
    """Store a vector anywhere."""
    b.store(value, pointer(b, b.add(address, I64(offset)), value.type), align=1)


def element(b: Any, base: Any, index: Any, size: int) -> Any:
    """Return the address of an element."""
    return b.add(base, b.mul(index, I64(size)))


def same(b: Any, value: Any, count: int = LANES) -> Any:
    """Return a vector that holds a value so many times."""
    empty = ir.Constant(many(value.type, count), ir.Undefined)
    one = b.insert_element(empty, value, I32(0))
    return b.shuffle_vector(one, empty, ir.Constant(many(I32, count), [0] * count))


def broadcast(b: Any, address: Any) -> Any:
    """Return a vector that holds the float32 at an address 16 times."""
    return same(b, b.load(pointer(b, address, F32), align=4))


def fma(b: Any, x: Any, y: Any, z: Any) -> Any:
    """Return `x * y + z`."""
    return _called(b, f"llvm.fma.v{LANES}f32", x.type, x, y, z)


def paired(b: Any, x: Any, y: Any) -> Any:
    """Return the sums of neighbouring products of two vectors of 32 int16, as 16 int32.

    Processors have one instruction for it, twice as fast as as many products of float32. LLVM does not find it.
    """
    if _FEATURES.get("avx512bw"):
        return _called(b, "llvm.x86.avx512.pmaddw.d.512", many(I32), x, y)
    if _FEATURES.get("avx2"):
        halves = [_cut(b, each, range(first, first + LANES)) for first in (0, LANES) for each in (x, y)]
        sums = [_called(b, "llvm.x86.avx2.pmadd.wd", many(I32, LANES // 2), *halves[at : at + 2]) for at in (0, 2)]
        return b.shuffle_vector(*sums, ir.Constant(many(I32), list(range(LANES))))
    even, odd = (
        b.mul(*(b.sext(_cut(b, each, range(first, 2 * LANES, 2)), many(I32)) for each in (x, y))) for first in (0, 1)
    )
    return b.add(even, odd)


def _cut(b: Any, vector: Any, places: range) -> Any:
    """Return some elements of a vector, as one."""
    empty = ir.Constant(vector.type, ir.Undefined)
    return b.shuffle_vector(vector, empty, ir.Constant(many(I32, len(places)), list(places)))


def nearest(b: Any, value: Any) -> Any:
    """Return the int32 nearest to float32, ties to even; the last one there is for what is beyond, 0 for a NaN."""
    whole = _called(b, f"llvm.rint.v{LANES}f32", value.type, value)
    return _called(b, f"llvm.fptosi.sat.v{LANES}i32.v{LANES}f32", many(I32), whole)


def largest(b: Any, value: Any) -> Any:
    """Return the largest of unsigned integers."""
    return _called(b, f"llvm.vector.reduce.umax.v{LANES}i32", I32, value)


def total(b: Any, value: Any) -> Any:
    """Return the sum of integers."""
    return _called(b, f"llvm.vector.reduce.add.v{LANES}i32", I32, value)


def _called(b: Any, name: str, result: Any, *arguments: Any) -> Any:
    kind = ir.FunctionType(result, [each.type for each in arguments])
    return b.call(cgutils.get_or_insert_function(b.module, kind, name), arguments)


def fetch(b: Any, address: Any) -> None:
    """Ask for the cache line at an address, which need not exist."""
    byte = I8.as_pointer()
    kind = ir.FunctionType(ir.VoidType(), [byte, I32, I32, I32])
    fetch = b.module.declare_intrinsic("llvm.prefetch", [byte], kind)
    b.call(fetch, [b.inttoptr(address, byte), I32(0), I32(3), I32(1)])


def loop(b: Any, count: Any, carried: Values, body: Callable[[Any, Values], Values]) -> Values:
    """Run `body` for 0 to `count - 1` (at least once); what it returns is what the next run gets, in registers."""
    before, inside, after = b.block, b.append_basic_block("loop"), b.append_basic_block("done")
    b.branch(inside)
    b.position_at_end(inside)
    index = b.phi(I64)
    index.add_incoming(I64(0), before)
    given = [b.phi(value.type) for value in carried]
    for phi, value in zip(given, carried, strict=True):
        phi.add_incoming(value, before)
    made = body(index, given)
    following = b.add(index, I64(1))
    for phi, value in zip([index, *given], [following, *made], strict=True):
        phi.add_incoming(value, b.block)
    b.cbranch(b.icmp_signed("<", following, count), inside, after)
    b.position_at_end(after)
    return made


def bfloat16(b: Any, value: Any) -> Any:
    """Round to the nearest bfloat16, ties to even; a NaN stays one."""
    bits = b.bitcast(value, many(I32))
    odd = b.and_(b.lshr(bits, constant(I32, 16)), constant(I32, 1))
    nearest = b.add(b.add(bits, odd), constant(I32, 0x7FFF))
    quiet = b.or_(bits, constant(I32, 0x00400000))
    chosen = b.select(b.fcmp_unordered("uno", value, value), quiet, nearest)
    return b.trunc(b.lshr(chosen, constant(I32, 16)), many(I16))


def widened(b: Any, value: Any) -> Any:
    """Return what the bits of bfloat16 mean, as float32."""
    return b.bitcast(b.shl(b.zext(value, many(I32)), constant(I32, 16)), many(F32))


def widen(b: Any, source: Any, count: Any, target: Any, factor: Any = None) -> None:
    """Write `count` bfloat16 (a multiple of 16) at one address as float32 at another, times a factor."""
    times = None if factor is None else same(b, factor)

    def part(i: Any, given: Values) -> Values:
        value = widened(b, read(b, element(b, source, i, 2 * LANES), 0, I16))
        write(b, element(b, target, i, 4 * LANES), 0, value if times is None else b.fmul(value, times))
        return given

    loop(b, b.sdiv(count, I64(LANES)), [], part)


def exponential(b: Any, value: Any) -> Any:
    """Return e to the power of values that are 0 or less, within a few units of the last place; a NaN stays one.

    Powers below the smallest normal number are 0.
    """
    scaled = b.fmul(value, constant(F32, 1.4426950408889634))
    kept = b.select(b.fcmp_unordered("ult", scaled, constant(F32, -126.0)), constant(F32, -126.0), scaled)
    # Adding and taking away 1.5 * 2^23 rounds to a whole number, whose bits then are the lowest ones of the sum.
    magic = constant(F32, 12582912.0)
    sum_ = b.fadd(kept, magic)
    rest = b.fsub(kept, b.fsub(sum_, magic))
    made = constant(F32, 1.5403530e-4)
    for factor in (1.3333558e-3, 9.6181291e-3, 5.5504109e-2, 0.24022651, 0.69314718, 1.0):
        made = fma(b, made, rest, constant(F32, factor))
    power = b.shl(b.bitcast(sum_, many(I32)), constant(I32, 23))
    found = b.bitcast(b.add(b.bitcast(made, many(I32)), power), many(F32))
    small = b.fcmp_ordered("olt", scaled, constant(F32, -126.0))
    found = b.select(small, constant(F32, 0.0), found)
    return b.select(b.fcmp_unordered("uno", value, value), value, found)
