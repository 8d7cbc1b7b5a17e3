"""Tiles of the kernels of panels: some rows and outputs, and how the codes of their weights become float32.

Numba's cache on disk does not look here: after a change, touch `panels_numba`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from llvmlite.binding import get_host_cpu_features

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
    fetch,
    fma,
    many,
    read,
    widened,
)

PANEL = 64
STRIP = PANEL if get_host_cpu_features().get("avx512f") else LANES
"""Outputs of a panel that lie together, input by input; see `panels_numba`."""

VECTORS = PANEL // LANES
AHEAD = 4096  # bytes between what is read and what is asked for; without asking a product takes 1.4 times as long


class Tile(NamedTuple):
    """Some rows, and a panel's outputs from vector `first` on."""

    rows: int
    vectors: int
    first: Any
    codes: Any
    scales: Any
    width: Any


def _address(b: Any, tile: Tile, vector: Any, index: Any, count: int, size: int) -> Any:
    """Return where the codes of a vector of outputs are for one input; `count` vectors of `size` bytes make a panel."""
    if STRIP == PANEL:
        return element(b, element(b, tile.codes, index, count * size), vector, size)
    return element(b, tile.codes, b.add(b.mul(vector, tile.width), index), size)


def _read(b: Any, tile: Tile, v: int, place: Any, kind: Any, size: int) -> Any:
    """Read a vector of codes, and ask for a later one where lines begin.

    One row of strips is four streams, which processors read ahead by themselves; to ask as well made it slower.
    """
    if v * size % 64 == 0 if STRIP == PANEL else tile.rows > 1:
        fetch(b, b.add(place, I64(AHEAD)))
    return read(b, place, 0, kind)


def codes16(b: Any, tile: Tile, index: Any) -> Values:
    """Return the weights of one input, as vectors of float32."""
    found = []
    for v in range(tile.vectors):
        place = _address(b, tile, b.add(tile.first, I64(v)), index, VECTORS, 2 * LANES)
        found.append(widened(b, _read(b, tile, v, place, I16, 2 * LANES)))
    return found


def codes8(b: Any, tile: Tile, index: Any) -> Values:
    """Return the codes of one input, as vectors of float32."""
    found = []
    for v in range(tile.vectors):
        place = _address(b, tile, b.add(tile.first, I64(v)), index, VECTORS, LANES)
        found.append(b.sitofp(b.sext(_read(b, tile, v, place, I8, LANES), many(I32)), many(F32)))
    return found


def accumulate(b: Any, tile: Tile, sums: Values, weights: Values, x: Any, index: Any) -> Values:
    """Add the products of one input to the sums of all rows, `[rows, vectors]`; `x` is the address of the first row."""
    made = []
    for row in range(tile.rows):
        value = broadcast(b, element(b, x, b.add(b.mul(tile.width, I64(row)), index), 4))
        own = sums[row * tile.vectors : (row + 1) * tile.vectors]
        made += [fma(b, weight, value, each) for weight, each in zip(weights, own, strict=True)]
    return made


def zeros(tile: Tile) -> Values:
    """Return sums to begin with."""
    return [constant(F32, 0.0)] * (tile.rows * tile.vectors)
