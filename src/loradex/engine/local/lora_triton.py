"""The LoRA kernel for graphics cards, in Triton: shrink and expand of all segments of a step, prompts and decodes.

One program computes a tile: some rows that share their adapters, and some columns of an output. It adds up what all of
their adapters say in float32 and rounds once, so no two programs write to one place and the order of the sum is fixed.
Adapters are read where they lie, by address; ranks beyond an adapter's own are masked, and take no memory.

Linears with one input, such as q, k and v, are computed together: their columns follow one another, and so do their
rows in the table.

Few rows, as in decodes, are one launch: each program makes the products that it needs, for reading A again from the
second-level cache costs less than another launch. Of many rows the products are made once, by a launch of their own.

Nothing that changes while the engine serves is compiled in but `R`, of which there are few (`ranks_at_once`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import triton
import triton.language as tl

from loradex.engine.local.tiles import FEW, MANY, Tiles

ALIGNED = 16
"""Bytes: every pair lies at a multiple, so that a program reads so many at a time."""

_FEWEST, _MOST_BYTES = 16, 128
# Ranks that are computed at a time, and what as many numbers take at most: matrix units want 16, and what a program
# keeps in shared memory must fit consumer cards.

_FEW_COLUMNS, _FEW_INPUTS = 256, 128
_MANY_COLUMNS, _MANY_INPUTS = 64, 64
# Outputs of a tile, and inputs that are read at a time. 128 columns for many rows did not fit the registers of a Hopper
# card with the four warps that Triton takes.

_WIDEN = tl.constexpr(triton.knobs.runtime.interpret)
# Triton's interpreter multiplies the bits of bfloat16 as integers. In float32 the products are exact, as on a card.

_CHANGING = ["members", "linear", "linears"]

TOGETHER = 3
"""Linears that one launch computes at most."""


def ranks_at_once(dtype: torch.dtype) -> Iterator[int]:
    """Yield every `R` that `add_products` may choose, smallest first."""
    ranks = _FEWEST
    while ranks * dtype.itemsize <= _MOST_BYTES:
        yield ranks
        ranks *= 2


@triton.jit
def _tile(tiles, M: tl.constexpr):
    """Return the rows of a tile, which of them exist, its first segment, how many share them, its rows of products."""
    tile = tiles + 5 * tl.program_id(0)
    first, end = tl.load(tile), tl.load(tile + 1)
    rows = first + tl.arange(0, M)
    place = tl.load(tile + 4) + tl.arange(0, M)
    return rows.to(tl.int64), rows < end, tl.load(tile + 2), tl.load(tile + 3), place.to(tl.int64)


@triton.jit
def _matrix(address, like):
    """Return the pointer to numbers of the type of what `like` points to, which lie at a multiple of `ALIGNED`."""
    return tl.multiple_of(tl.load(address).to(tl.pointer_type(like.dtype.element_ty)), [16])


@triton.jit
def _dot(left, right, sums):
    """Return `sums + left right`, with sums in float32 and no shortcut for float32 operands."""
    if _WIDEN:
        left, right = left.to(tl.float32), right.to(tl.float32)
    return tl.dot(left, right, sums, input_precision="ieee")


@triton.jit
def _product(x, a, rows, exist, ranks, rank, width, M: tl.constexpr, R: tl.constexpr, K: tl.constexpr):
    """Return `x a^T` of some rows and ranks, float32 `[M, R]`."""
    sums = tl.zeros((M, R), tl.float32)
    for start in range(0, width, K):
        columns = start + tl.arange(0, K)
        inside = columns < width
        xs = tl.load(x + rows[:, None] * width + columns[None, :], mask=exist[:, None] & inside[None, :], other=0.0)
        known = inside[:, None] & (ranks < rank)[None, :]
        down = tl.load(a + ranks[None, :] * width + columns[:, None], mask=known, other=0.0)
        sums = _dot(xs, down, sums)
    return sums


@triton.jit
def _member(block, y0, y1, y2, width0, width1, width2, N: tl.constexpr):
    """Return to which of the linears a block of columns belongs, its output, how wide that is, and the columns."""
    second = tl.cdiv(width0, N)
    third = second + tl.cdiv(width1, N)
    member = (block >= second).to(tl.int32) + (block >= third).to(tl.int32)
    if block >= third:
        y, width, block = y2, width2, block - third
    elif block >= second:
        y, width, block = y1, width1, block - second
    else:
        y, width = y0, width0
    return member, y, width, block * N + tl.arange(0, N)


@triton.jit(do_not_specialize=_CHANGING)
def _shrink(
    x,
    products,
    tiles,
    slots,
    table,
    members,
    linear,
    linears,
    stride,
    width,
    M: tl.constexpr,
    R: tl.constexpr,
    K: tl.constexpr,
):
    """Store some ranks of the products of a tile with what one of its adapters has for one linear."""
    rows, exist, segment, sharers, place = _tile(tiles, M)
    sharer, member, start = tl.program_id(1) // members, tl.program_id(1) % members, tl.program_id(2) * R
    if sharer < sharers:
        row = table + 3 * (tl.load(slots + segment + sharer) * linears + linear + member)
        rank = tl.load(row + 2)
        if start < rank:
            ranks = start + tl.arange(0, R)
            sums = _product(x, _matrix(row, x), rows, exist, ranks, rank, width, M, R, K)
            own = products + ((place + sharer * M) * members + member)[:, None] * stride + ranks[None, :]
            tl.store(own, sums, mask=exist[:, None])


@triton.jit(do_not_specialize=_CHANGING)
def _expand(
    x,
    y0,
    y1,
    y2,
    products,
    tiles,
    slots,
    weights,
    table,
    scaling,
    members,
    linear,
    linears,
    stride,
    width_in,
    width0,
    width1,
    width2,
    M: tl.constexpr,
    N: tl.constexpr,
    R: tl.constexpr,
    K: tl.constexpr,
    STORED: tl.constexpr,
):
    """Add to a tile of an output what its adapters say, from products that are stored or made here."""
    rows, exist, segment, sharers, place = _tile(tiles, M)
    member, y, width, columns = _member(tl.program_id(1), y0, y1, y2, width0, width1, width2, N)
    inside = columns < width
    out = y + rows[:, None] * width + columns[None, :]
    sums = tl.load(out, mask=exist[:, None] & inside[None, :], other=0.0).to(tl.float32)
    for sharer in range(sharers):
        held = tl.load(slots + segment + sharer) * linears + linear + member
        row = table + 3 * held
        rank = tl.load(row + 2)
        a, b = _matrix(row, x), _matrix(row + 1, x)
        factor = tl.load(scaling + held) * tl.load(weights + segment + sharer)
        for start in range(0, rank, R):
            ranks = start + tl.arange(0, R)
            if STORED:
                own = products + ((place + sharer * M) * members + member)[:, None] * stride + ranks[None, :]
                product = tl.load(own, mask=exist[:, None], other=0.0)
            else:
                product = _product(x, a, rows, exist, ranks, rank, width_in, M, R, K)
            known = (ranks < rank)[:, None] & inside[None, :]
            up = tl.load(b + ranks[:, None] * width + columns[None, :], mask=known, other=0.0)
            sums = _dot((product * factor).to(up.dtype), up, sums)
    tl.store(out, sums.to(y.dtype.element_ty), mask=exist[:, None] & inside[None, :])


def add_products(
    x: torch.Tensor, ys: Sequence[torch.Tensor], tiles: Tiles, table: torch.Tensor, scaling: torch.Tensor, linear: int
) -> None:
    """Add each segment's products to its rows of the outputs of up to `TOGETHER` linears, in place.

    `x` is `[rows, in_features]`, each of `ys` `[rows, out_features]`, all contiguous and in the dtype of the adapters.
    `table` is int64 `[slots, linears, 3]`: address of a `[rank, in_features]`, of b `[rank, out_features]`, rank (0:
    nothing here); `scaling` float32 `[slots, linears]`; `linear` is the first of the linears, which are neighbours.
    """
    rank, members = max(tiles.ranks[linear : linear + len(ys)]), len(ys)
    ranks = min(max(triton.next_power_of_2(rank), _FEWEST), _MOST_BYTES // x.element_size())
    blocks = triton.cdiv(rank, ranks)
    own = (members, linear, table.shape[1], blocks * ranks)
    outputs = (*ys, *[ys[0]] * (TOGETHER - members))
    widths = (*(y.shape[1] for y in ys), *[0] * (TOGETHER - members))
    adapters = (tiles.slots, tiles.weights, table, scaling, *own, x.shape[1], *widths)
    if tiles.few is not None:
        shape = {"M": FEW, "N": _FEW_COLUMNS, "R": ranks, "K": _FEW_INPUTS, "STORED": False}
        grid = (len(tiles.few), sum(triton.cdiv(width, _FEW_COLUMNS) for width in widths))
        _expand[grid](x, *outputs, scaling, tiles.few, *adapters, **shape)
    if tiles.many is not None:
        products = torch.empty((tiles.products * members, blocks * ranks), dtype=torch.float32, device=x.device)
        grid = (len(tiles.many), tiles.sharers * members, blocks)
        shape = {"M": MANY, "R": ranks, "K": _MANY_INPUTS}
        _shrink[grid](x, products, tiles.many, tiles.slots, table, *own, x.shape[1], **shape)
        shape |= {"N": _MANY_COLUMNS, "STORED": True, "num_stages": 2}  # the loop over ranks mostly runs once
        grid = (len(tiles.many), sum(triton.cdiv(width, _MANY_COLUMNS) for width in widths))
        _expand[grid](x, *outputs, products, tiles.many, *adapters, **shape)
