"""Tiles of int4: codes of 4 bits that share a scale in groups of 32 inputs, laid out as `Laid` says.

Numba's cache on disk does not look here: after a change, touch `panels_numba`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from loradex.engine.local.panel_tile import AHEAD, PANEL, Tile, accumulate, zeros
from loradex.engine.local.rounding import GROUP
from loradex.engine.local.vectors import (
    F32,
    I16,
    I32,
    I64,
    LANES,
    Values,
    broadcast,
    constant,
    element,
    fetch,
    fma,
    largest,
    loop,
    many,
    nearest,
    paired,
    pointer,
    read,
    same,
    total,
    widened,
    write,
)

# Bytes from the start of a group of int16 inputs to their scale, and to what makes up for codes without sign.
_SCALE = 2 * GROUP
_OFFSET = _SCALE + 4
_TINY = 1e-30  # a group of inputs below this is taken for zeros
_SCALES_AHEAD = 512  # bytes between the scales that are read and those that are asked for


def inputs4(b: Any, tile: Tile, given: Values, body: Callable[[Any, Values, Values], Values]) -> Values:
    """Run `body` for one input after the other, with its weights as vectors of float32.

    What it returns is what the next run is given, in registers.
    """

    def group(number: Any, given: Values) -> Values:
        factors = _scales(b, tile, number)
        offsets = [b.fmul(each, constant(F32, -8.0)) for each in factors]

        def pair(offset: Any, given: Values) -> Values:
            place = b.add(b.mul(number, I64(GROUP // 2)), offset)
            word = _word(b, tile, place)
            for half in (0, 1):
                codes = _codes(b, tile, word, half)
                weights = [fma(b, *each) for each in zip(codes, factors, offsets, strict=True)]
                given = body(b.add(b.mul(place, I64(2)), I64(half)), weights, given)
            return given

        return loop(b, I64(GROUP // 2), given, pair)

    return loop(b, b.sdiv(tile.width, I64(GROUP)), given, group)


def sums4(b: Any, tile: Tile, x: Any) -> Values:
    """Return the products of the tile's rows with its outputs."""
    return inputs4(b, tile, zeros(tile), lambda i, weights, given: accumulate(b, tile, given, weights, x, i))


def integers4(b: Any, tile: Tile, x: Any) -> Values:
    """As `sums4`, of an input as `quantized` writes it: codes need not become float32, and two products are one."""

    def group(number: Any, sums: Values) -> Values:
        inputs = element(b, x, number, 4 * GROUP)
        for line in (0, 64):
            fetch(b, b.add(element(b, tile.scales, number, 2 * PANEL), I64(_SCALES_AHEAD + line)))
        none = [constant(I32, 0)] * (tile.rows * tile.vectors)

        def pair(offset: Any, sums: Values) -> Values:
            word = _word(b, tile, b.add(b.mul(number, I64(GROUP // 2)), offset))
            parts, made = _parts(b, tile, word), []
            for row in range(tile.rows):
                place = b.add(element(b, inputs, offset, 4), b.mul(tile.width, I64(4 * row)))
                both = b.bitcast(same(b, b.load(pointer(b, place, I32), align=4)), many(I16, 2 * LANES))
                own = sums[row * tile.vectors : (row + 1) * tile.vectors]
                made += [b.add(each, paired(b, part, both)) for each, part in zip(own, parts, strict=True)]
            return made

        own = loop(b, I64(GROUP // 2), none, pair)
        factors, made = _scales(b, tile, number), []
        for row in range(tile.rows):
            place = b.add(inputs, b.mul(tile.width, I64(4 * row)))
            scale, offset = broadcast(b, b.add(place, I64(_SCALE))), broadcast(b, b.add(place, I64(_OFFSET)))
            for v, factor in enumerate(factors):
                at = row * tile.vectors + v
                unit = constant(F32, (1.0, 1 / 16)[v % 2])
                value = fma(b, b.sitofp(own[at], many(F32)), unit, offset)
                made.append(fma(b, value, b.fmul(factor, scale), sums[at]))
        return made

    return loop(b, b.sdiv(tile.width, I64(GROUP)), zeros(tile), group)


def quantized(b: Any, source: Any, count: Any, target: Any) -> None:
    """Write `count` bfloat16 as int16, in groups of 32 that have a scale.

    A group lies in the 128 bytes that it would take as float32: 32 int16, the scale, and minus 8 times their sum, as
    float32. The largest of them is 32767: 128 times as fine as what bfloat16 says of it.
    """

    def group(number: Any, given: Values) -> Values:
        place = element(b, source, number, 2 * GROUP)
        values = [widened(b, read(b, place, 2 * at, I16)) for at in range(0, GROUP, LANES)]
        sizes = [b.and_(b.bitcast(each, many(I32)), constant(I32, 0x7FFFFFFF)) for each in values]
        first, second = sizes
        larger = largest(b, b.select(b.icmp_unsigned(">", first, second), first, second))
        most = b.bitcast(larger, F32)  # a NaN, if there is one
        small = b.fcmp_ordered("<", most, F32(_TINY))
        factor = b.select(small, F32(0.0), b.fdiv(F32(32767.0), most))
        codes = [nearest(b, b.fmul(each, same(b, factor))) for each in values]
        place = element(b, target, number, 4 * GROUP)
        for at, code in enumerate(codes):
            write(b, place, 2 * LANES * at, b.trunc(code, many(I16)))
        scale = b.select(small, F32(0.0), b.fdiv(most, F32(32767.0)))
        b.store(scale, pointer(b, b.add(place, I64(_SCALE)), F32))
        offset = b.fmul(b.sitofp(total(b, b.add(*codes)), F32), F32(-8.0))
        b.store(offset, pointer(b, b.add(place, I64(_OFFSET)), F32))
        return given

    loop(b, b.sdiv(count, I64(GROUP)), [], group)


def _word(b: Any, tile: Tile, pair: Any) -> Any:
    """Return the codes that all 64 outputs have for two inputs, as 16 words: see `Laid`. Ask for later ones."""
    place = element(b, tile.codes, pair, PANEL)
    fetch(b, b.add(place, I64(AHEAD)))
    return read(b, place, 0, I32)


def _codes(b: Any, tile: Tile, word: Any, half: int) -> Values:
    """Return the codes in a word of the first (0) or second (1) input plus 8, as vectors of float32."""
    found = []
    for v in range(tile.vectors):
        bits = b.add(b.mul(b.trunc(b.add(tile.first, I64(v)), I32), I32(4)), I32(16 * half))
        code = b.and_(b.lshr(word, same(b, bits)), constant(I32, 15))
        found.append(b.sitofp(code, many(F32)))
    return found


def _scales(b: Any, tile: Tile, group: Any) -> Values:
    """Return the scales of a group of inputs, as vectors of float32."""
    place = element(b, element(b, tile.scales, group, 2 * PANEL), tile.first, 2 * LANES)
    return [widened(b, read(b, place, 2 * LANES * v, I16)) for v in range(tile.vectors)]


def _parts(b: Any, tile: Tile, word: Any) -> Values:
    """Return the codes of each vector of outputs as int16, the two inputs of an output side by side.

    Those of every second vector are 16 times what they mean: to shift them would cost as much as to multiply.
    """
    halves, parts = b.bitcast(word, many(I16, 2 * LANES)), []
    for v in range(0, tile.vectors, 2):
        bits = b.mul(b.trunc(b.add(tile.first, I64(v)), I16), I16(4))
        shifted = b.lshr(halves, same(b, bits, 2 * LANES))
        parts += [b.and_(shifted, constant(I16, mask, 2 * LANES)) for mask in (0x000F, 0x00F0)]
    return parts
