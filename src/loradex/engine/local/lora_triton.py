"""The LoRA kernel for graphics cards, in Triton: shrink and expand of all segments of a step, prompts and decodes.

One program computes a tile: some rows that share their adapters, and some columns of the output. It adds up what all of
their adapters say in float32 and rounds once, so no two programs write to one place and the order of the sum is fixed.
Adapters are read where they lie, by address; ranks beyond an adapter's own are masked, and take no memory.

Few rows, as in decodes, are one launch: each program makes the products that it needs, for reading A again from the
second-level cache costs less than another launch. Of many rows the products are made once, by a launch of their own.

Nothing that changes while the engine serves is compiled in but `R`, of which there are few (`ranks_at_once`).
"""

from __future__ import annotations

from collections.abc import Iterator

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

_CHANGING = ["linear", "linears"]


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


@triton.jit(do_not_specialize=_CHANGING)
def _shrink(
    x,
    products,
    tiles,
    slots,
    table,
    linear,
    linears,
    stride,
    width,
    M: tl.constexpr,
    R: tl.constexpr,
    K: tl.constexpr,
):
    """Store some ranks of the products of a tile with one of its adapters."""
    rows, exist, segment, sharers, place = _tile(tiles, M)
    sharer, start = tl.program_id(1), tl.program_id(2) * R
    if sharer < sharers:
        row = table + 3 * (tl.load(slots + segment + sharer) * linears + linear)
        rank = tl.load(row + 2)
        if start < rank:
            ranks = start + tl.arange(0, R)
            sums = _product(x, _matrix(row, x), rows, exist, ranks, rank, width, M, R, K)
            own = products + (place + sharer * M)[:, None] * stride + ranks[None, :]
            tl.store(own, sums, mask=exist[:, None])


@triton.jit(do_not_specialize=_CHANGING)
def _expand(
    x,
    y,
    products,
    tiles,
    slots,
    weights,
    table,
    scaling,
    linear,
    linears,
    stride,
    width_in,
    width_out,
    M: tl.constexpr,
    N: tl.constexpr,
    R: tl.constexpr,
    K: tl.constexpr,
    STORED: tl.constexpr,
):
    """Add to a tile of the output what its adapters say, from products that are stored or made here."""
    rows, exist, segment, sharers, place = _tile(tiles, M)
    columns = tl.program_id(1) * N + tl.arange(0, N)
    inside = columns < width_out
    out = y + rows[:, None] * width_out + columns[None, :]
    sums = tl.load(out, mask=exist[:, None] & inside[None, :], other=0.0).to(tl.float32)
    for sharer in range(sharers):
        held = tl.load(slots + segment + sharer) * linears + linear
        row = table + 3 * held
        rank = tl.load(row + 2)
        a, b = _matrix(row, x), _matrix(row + 1, x)
        factor = tl.load(scaling + held) * tl.load(weights + segment + sharer)
        for start in range(0, rank, R):
            ranks = start + tl.arange(0, R)
            if STORED:
                own = products + (place + sharer * M)[:, None] * stride + ranks[None, :]
                product = tl.load(own, mask=exist[:, None], other=0.0)
            else:
                product = _product(x, a, rows, exist, ranks, rank, width_in, M, R, K)
            known = (ranks < rank)[:, None] & inside[None, :]
            up = tl.load(b + ranks[:, None] * width_out + columns[None, :], mask=known, other=0.0)
            sums = _dot((product * factor).to(up.dtype), up, sums)
    tl.store(out, sums.to(y.dtype.element_ty), mask=exist[:, None] & inside[None, :])


def add_products(
    x: torch.Tensor, y: torch.Tensor, tiles: Tiles, table: torch.Tensor, scaling: torch.Tensor, linear: int
) -> None:
    """Add each segment's product to its rows of `y`, in place.

    `x` is `[rows, in_features]`, `y` `[rows, out_features]`, both contiguous and in the dtype of the adapters. `table`
    is int64 `[slots, linears, 3]`: address of a `[rank, in_features]`, of b `[rank, out_features]`, rank (0: nothing
    here); `scaling` float32 `[slots, linears]`; `linear` says which of the linears this is.
    """
    rank, (width_in, width_out) = tiles.ranks[linear], (x.shape[1], y.shape[1])
    ranks = min(max(triton.next_power_of_2(rank), _FEWEST), _MOST_BYTES // x.element_size())
    blocks = triton.cdiv(rank, ranks)
    own = (linear, table.shape[1], blocks * ranks)
    adapters = (tiles.slots, tiles.weights, table, scaling, *own, width_in, width_out)
    if tiles.few is not None:
        shape = {"M": FEW, "N": _FEW_COLUMNS, "R": ranks, "K": _FEW_INPUTS, "STORED": False}
        grid = (len(tiles.few), triton.cdiv(width_out, _FEW_COLUMNS))
        _expand[grid](x, y, scaling, tiles.few, *adapters, **shape)
    if tiles.many is not None:
        products = torch.empty((tiles.products, blocks * ranks), dtype=torch.float32, device=x.device)
        grid = (len(tiles.many), tiles.sharers, blocks)
        shape = {"M": MANY, "R": ranks, "K": _MANY_INPUTS}
        _shrink[grid](x, products, tiles.many, tiles.slots, table, *own, width_in, **shape)
        shape |= {"N": _MANY_COLUMNS, "STORED": True, "num_stages": 2}  # the loop over ranks mostly runs once
        grid = (len(tiles.many), triton.cdiv(width_out, _MANY_COLUMNS))
        _expand[grid](x, y, products, tiles.many, *adapters, **shape)
