"""Attention of decodes over the paged cache on graphics cards, in Triton.

One program attends the query heads that share a key/value head to one part of one sequence's past, which it reads
once, where it lies: nothing is gathered or padded, and how long a sequence is changes no shape, so that a step can be
recorded and played again (`graphs.py`). A second launch puts the parts together; see Flash-Decoding (Dao et al., 2023).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch.nn import functional

from loradex.engine.local.dot_triton import dot
from loradex.engine.local.kvcache import KVCache

_TOKENS = 64
"""Of the past, that are read at a time."""

_LEAST = 16
"""What matrix units want at least: query heads and sizes of heads are filled up to it."""

_PROGRAMS = 128
"""About as many as a card computes side by side."""

_PARTS = (16, 4, 1)
"""Into how many parts the past is cut: few, for each is compiled."""


@triton.jit
def _widened(codes, like, FP8: tl.constexpr):
    """Return keys or values as numbers of the type of what `like` points to."""
    if FP8:  # noqa: SIM108 - both arms of an expression would be compiled
        numbers = codes.to(tl.float8e4nv, bitcast=True).to(like.dtype.element_ty)
    else:
        numbers = codes
    return numbers


@triton.jit(do_not_specialize=["by_table"])
def _attend(
    query,
    keys,
    values,
    tables,
    lengths,
    sums,
    peaks,
    totals,
    by_row,
    by_head,
    by_table,
    key_scale,
    window,
    softcap,
    heads: tl.constexpr,
    group: tl.constexpr,
    block: tl.constexpr,
    key_dim: tl.constexpr,
    value_dim: tl.constexpr,
    G: tl.constexpr,
    K: tl.constexpr,
    V: tl.constexpr,
    N: tl.constexpr,
    PARTS: tl.constexpr,
    WINDOW: tl.constexpr,
    SOFTCAP: tl.constexpr,
    FP8: tl.constexpr,
):
    """Store the weighted sum of a part's values, the largest score and the sum of weights."""
    row, head, part = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    length = tl.load(lengths + row)
    first = 0
    if WINDOW:
        first = tl.maximum(length - window, 0)
    share = tl.cdiv(tl.cdiv(length - first, PARTS), N) * N
    begin = first + part * share
    end = tl.minimum(begin + share, length)
    member, key_dims, value_dims = tl.arange(0, G), tl.arange(0, K), tl.arange(0, V)
    real = member < group
    q = tl.load(
        query + row * by_row + (head * group + member)[:, None] * by_head + key_dims[None, :],
        mask=real[:, None] & (key_dims < key_dim)[None, :],
        other=0.0,
    )
    peak = tl.full((G,), float("-inf"), tl.float32)
    total = tl.zeros((G,), tl.float32)
    summed = tl.zeros((G, V), tl.float32)
    for start in range(begin, end, N):
        position = start + tl.arange(0, N)
        inside = position < end
        found = tl.load(tables + row * by_table + position // block, mask=inside, other=0).to(tl.int64)
        cell = (found * block + position % block) * heads + head
        known = inside[None, :] & (key_dims < key_dim)[:, None]
        k = tl.load(keys + cell[None, :] * key_dim + key_dims[:, None], mask=known, other=0)
        scores = dot(q, _widened(k, query, FP8), tl.zeros((G, N), tl.float32)) * key_scale
        if SOFTCAP:
            scores = softcap * (2 / (1 + tl.exp(-2 * scores / softcap)) - 1)
        scores = tl.where(inside[None, :], scores, float("-inf"))
        higher = tl.maximum(peak, tl.max(scores, 1))
        weights = tl.exp(scores - higher[:, None])
        fade = tl.exp(peak - higher)
        known = inside[:, None] & (value_dims < value_dim)[None, :]
        v = _widened(tl.load(values + cell[:, None] * value_dim + value_dims[None, :], mask=known, other=0), query, FP8)
        summed = dot(weights.to(v.dtype), v, summed * fade[:, None])
        total = total * fade + tl.sum(weights, 1)
        peak = higher
    place = ((row * heads + head) * group + member) * PARTS + part
    tl.store(peaks + place, peak, mask=real)
    tl.store(totals + place, total, mask=real)
    to = sums + place[:, None] * value_dim + value_dims[None, :]
    tl.store(to, summed, mask=real[:, None] & (value_dims < value_dim)[None, :])


@triton.jit
def _combine(sums, peaks, totals, out, value_scale, value_dim: tl.constexpr, V: tl.constexpr, PARTS: tl.constexpr):
    """Put the parts of one query head together."""
    place = tl.program_id(0) * PARTS + tl.arange(0, PARTS)
    dims = tl.arange(0, V)
    inside = (dims < value_dim)[None, :]
    peak = tl.load(peaks + place)
    share = tl.exp(peak - tl.max(peak, 0))
    total = tl.sum(tl.load(totals + place) * share, 0)
    parts = tl.load(sums + place[:, None] * value_dim + dims[None, :], mask=inside, other=0.0)
    mean = tl.sum(parts * share[:, None], 0) / total * value_scale
    tl.store(out + tl.program_id(0) * value_dim + dims, mean.to(out.dtype.element_ty), mask=dims < value_dim)


def attend_paged(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    tables: torch.Tensor,
    lengths: torch.Tensor,
    block: int,
    *,
    scaling: float | None = None,
    window: int | None = None,
    softcap: float | None = None,
    scales: tuple[float, float] = (1.0, 1.0),
) -> torch.Tensor:
    """Attend one row of each sequence to its past; the row's own key and value are in the cache already.

    Args:
        query: `[sequences, query heads, key dim]`, of any strides but in the last dimension.
        keys: `[cells, heads, key dim]`, in the dtype of `query`, or uint8 for e4m3.
        values: `[cells, heads, value dim]`, likewise.
        tables: int32 `[sequences, blocks]`, the numbers of each sequence's blocks of `block` cells, in order.
        lengths: int32 `[sequences]`, at least 1: tokens of each sequence, the row's own included.
        block: cells of a block.
        scaling: of scores; None for `key dim ** -0.5`.
        window: how many of the last tokens a row sees; None for all.
        softcap: scores go through `softcap * tanh(score / softcap)`.
        scales: of the codes of keys and of values.

    Returns:
        `[sequences, query heads, value dim]`, contiguous, in the dtype of `query`.
    """
    rows, query_heads, key_dim = query.shape
    heads, value_dim = values.shape[1:]
    parts = next(each for each in _PARTS if rows * heads * each <= _PROGRAMS or each == 1)
    fp32 = {"dtype": torch.float32, "device": query.device}
    sums = torch.empty(rows, query_heads, parts, value_dim, **fp32)
    peaks, totals = torch.empty(rows, query_heads, parts, **fp32), torch.empty(rows, query_heads, parts, **fp32)
    out = torch.empty(rows, query_heads, value_dim, dtype=query.dtype, device=query.device)
    factor = (key_dim**-0.5 if scaling is None else scaling) * scales[0]
    columns = max(_LEAST, triton.next_power_of_2(value_dim))
    group = query_heads // heads
    _attend[(rows, heads, parts)](
        query,
        keys,
        values,
        tables,
        lengths,
        sums,
        peaks,
        totals,
        query.stride(0),
        query.stride(1),
        tables.stride(0),
        factor,
        window or 0,
        softcap or 0.0,
        heads=heads,
        group=group,
        block=block,
        key_dim=key_dim,
        value_dim=value_dim,
        G=max(_LEAST, triton.next_power_of_2(group)),
        K=max(_LEAST, triton.next_power_of_2(key_dim)),
        V=columns,
        N=_TOKENS,
        PARTS=parts,
        WINDOW=window is not None,
        SOFTCAP=softcap is not None,
        FP8=keys.dtype is torch.uint8,
    )
    _combine[(rows * query_heads,)](sums, peaks, totals, out, scales[1], value_dim=value_dim, V=columns, PARTS=parts)
    return out


def deviation(cache: KVCache, layer: int, query_heads: int, dtype: torch.dtype, block: int) -> float:
    """Return how far the kernel is from torch's attention, as a share of the largest number, on what a cache holds.

    Writes to the first cells of the layer.
    """
    keys, values, scales = cache.pools(layer)
    device, length = keys.device, 2 * _TOKENS + 3
    count = -(-length // block)
    cells = torch.arange(length, device=device)
    kv = [torch.randn(length, *pool.shape[1:], device=device).to(dtype) for pool in (keys, values)]
    cache.write(layer, cells, *kv)
    query = torch.randn(1, query_heads, keys.shape[2], device=device).to(dtype)
    tables = torch.arange(count, dtype=torch.int32, device=device)[None]
    lengths = torch.tensor([length], dtype=torch.int32, device=device)
    ours = attend_paged(query, keys, values, tables, lengths, block, scales=scales).float()
    k, v = (each.float() for each in cache.read(layer, cells[None]))
    theirs = functional.scaled_dot_product_attention(
        query.float()[:, :, None], k, v, enable_gqa=query_heads != k.shape[1]
    )[:, :, 0]
    return float((ours - theirs).abs().max() / theirs.abs().max())
