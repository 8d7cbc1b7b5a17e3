"""The LoRA kernel for graphics cards, in Triton: shrink and expand of all segments of a step, prompts and decodes.

One program computes a tile: some rows that share their adapters, and some columns of an output. It adds up what all of
their adapters say in float32 and rounds once, so no two programs write to one place and the order of the sum is fixed.
Adapters are read where they lie, by address; ranks beyond an adapter's own are masked, and take no memory.

Linears with one input, such as q, k and v, are computed together: their columns follow one another, and so do their
rows in the table.

The products of x and a are made by one launch, which cuts long inputs into parts so that few rows keep the whole card
busy, and the outputs by a second, which adds the parts up in their order.

Nothing that changes while the engine serves is compiled in but `R`, of which there are few (`ranks_at_once`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import triton
import triton.language as tl

from loradex.engine.local.dot_triton import dot
from loradex.engine.local.tiles import FEW, MANY, Tiles

ALIGNED = 16
"""Bytes: every pair lies at a multiple, so that a program reads so many at a time."""

_FEWEST, _MOST_BYTES = 16, 128
# Ranks that are computed at a time, and what as many numbers take at most: matrix units want 16, and what a program
# keeps in shared memory must fit consumer cards.

_FEW_COLUMNS, _FEW_INPUTS = 128, 128
_MANY_COLUMNS, _MANY_INPUTS = 64, 64
# Outputs of a tile, and inputs that are read at a time. 128 columns for many rows did not fit the registers of a Hopper
# card with the four warps that Triton takes.

_PART = 256
# Inputs of few rows that one program multiplies at least.

_CHANGING = ["members", "linear", "linears", "parts", "part", "all_products"]

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
    return rows.to(tl.int64), rows < end, tl.load(tile + 2), tl.load(tile + 3), place.to(tl.int64), end - first


@triton.jit
def _matrix(address, like):
    """Return the pointer to numbers of the type of what `like` points to, which lie at a multiple of `ALIGNED`."""
    return tl.multiple_of(tl.load(address).to(tl.pointer_type(like.dtype.element_ty)), [16])


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
    parts,
    part,
    all_products,
    width,
    M: tl.constexpr,
    R: tl.constexpr,
    K: tl.constexpr,
):
    """Store some ranks of the products of a part of a tile's inputs with what its adapters have for one linear."""
    rows, exist, segment, sharers, place, count = _tile(tiles, M)
    member = tl.program_id(1)
    start, own = tl.program_id(2) // parts * R, tl.program_id(2) % parts
    for sharer in range(sharers):
        row = table + 3 * (tl.load(slots + segment + sharer) * linears + linear + member)
        rank = tl.load(row + 2)
        if start < rank:
            ranks = start + tl.arange(0, R)
            a = _matrix(row, x)
            sums = tl.zeros((M, R), tl.float32)
            begin = tl.multiple_of(own * part, K)
            for first in range(begin, min(begin + part, width), K):
                columns = first + tl.arange(0, K)
                inside = columns < width
                there = x + rows[:, None] * width + columns[None, :]
                xs = tl.load(there, mask=exist[:, None] & inside[None, :], other=0.0)
                known = inside[:, None] & (ranks < rank)[None, :]
                down = tl.load(a + ranks[None, :] * width + columns[:, None], mask=known, other=0.0)
                sums = dot(xs, down, sums)
            to = own * all_products + (place + sharer * count) * members + member
            tl.store(products + to[:, None] * stride + ranks[None, :], sums, mask=exist[:, None])


@triton.jit(do_not_specialize=_CHANGING)
def _expand(
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
    parts,
    all_products,
    width0,
    width1,
    width2,
    M: tl.constexpr,
    N: tl.constexpr,
    R: tl.constexpr,
):
    """Add to a tile of an output what its adapters say."""
    rows, exist, segment, sharers, place, count = _tile(tiles, M)
    member, y, width, columns = _member(tl.program_id(1), y0, y1, y2, width0, width1, width2, N)
    inside = columns < width
    out = y + rows[:, None] * width + columns[None, :]
    sums = tl.load(out, mask=exist[:, None] & inside[None, :], other=0.0).to(tl.float32)
    for sharer in range(sharers):
        held = tl.load(slots + segment + sharer) * linears + linear + member
        row = table + 3 * held
        rank = tl.load(row + 2)
        b = _matrix(row + 1, y)
        factor = tl.load(scaling + held) * tl.load(weights + segment + sharer)
        for start in range(0, rank, R):
            ranks = start + tl.arange(0, R)
            product = tl.zeros((M, R), tl.float32)
            for own in range(parts):
                there = own * all_products + (place + sharer * count) * members + member
                product += tl.load(products + there[:, None] * stride + ranks[None, :], mask=exist[:, None], other=0.0)
            known = (ranks < rank)[:, None] & inside[None, :]
            up = tl.load(b + ranks[:, None] * width + columns[None, :], mask=known, other=0.0)
            sums = dot((product * factor).to(up.dtype), up, sums)
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
    blocks, width = triton.cdiv(rank, ranks), x.shape[1]
    outputs = (*ys, *[ys[0]] * (TOGETHER - members))
    widths = (*(y.shape[1] for y in ys), *[0] * (TOGETHER - members))
    few = (tiles.few, FEW, _FEW_COLUMNS, _FEW_INPUTS, triton.cdiv(width, _PART))
    many = (tiles.many, MANY, _MANY_COLUMNS, _MANY_INPUTS, 1)
    for own, rows, columns, inputs, parts in (few, many):
        if own is None:
            continue
        part = triton.cdiv(triton.cdiv(width, parts), inputs) * inputs
        parts = triton.cdiv(width, part)
        count, stride = tiles.products * members, blocks * ranks
        products = torch.empty((parts, count, stride), dtype=torch.float32, device=x.device)
        place = (members, linear, table.shape[1], stride, parts)
        grid = (len(own), members, blocks * parts)
        shape = {"M": rows, "R": ranks}
        _shrink[grid](x, products, own, tiles.slots, table, *place, part, count, width, **shape, K=inputs)
        grid = (len(own), sum(triton.cdiv(each, columns) for each in widths))
        adapters = (tiles.slots, tiles.weights, table, scaling)
        # The loop over ranks mostly runs once, so that there is nothing to read ahead.
        shape |= {"N": columns, "num_stages": 2}
        _expand[grid](*outputs, products, own, *adapters, *place, count, *widths, **shape)
