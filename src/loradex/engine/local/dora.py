"""DoRA: how long the rows of an adapted weight are, for its magnitudes are their lengths in truth.

`y = m / |W + s B A| * (W x + s B A x)`, the length taken of each row (arXiv:2402.09353, equation 5).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from loradex.engine.local.lora import LoraPair

CHUNK = 256
"""Rows of a weight that are looked at together."""

Weights = Callable[[int, int], torch.Tensor]
"""Rows `[begin:end]` of a weight, `[rows, columns]`, in any dtype."""


def row_lengths(weight: Weights, rows: int, pair: LoraPair, rest: Callable[[], None]) -> torch.Tensor:
    """Return the length of each row of `W + s B A`, `[rows]` in float32, for a linear's weight `[out, in]`."""
    a, b = pair.a.float(), pair.b.float()
    lengths = []
    for begin, end in _chunks(rows):
        own = weight(begin, end).float()
        lengths.append(torch.linalg.vector_norm(own.addmm(b[:, begin:end].t(), a, alpha=pair.scaling), dim=1))
        rest()
    return torch.cat(lengths)


def column_lengths(weight: Weights, rows: int, pair: LoraPair, rest: Callable[[], None]) -> torch.Tensor:
    """Return the length of each column of `W + s A^T B^T`, `[columns]` in float32, for an embedding's weight.

    It is `[vocabulary, width]`.
    """
    a, b = pair.a.float(), pair.b.float()
    squares = torch.zeros(b.shape[1], device=b.device)
    for begin, end in _chunks(rows):
        own = weight(begin, end).float()
        squares += own.addmm(a[:, begin:end].t(), b, alpha=pair.scaling).square().sum(dim=0)
        rest()
    return squares.sqrt()


def _chunks(rows: int) -> Iterator[tuple[int, int]]:
    return ((begin, min(begin + CHUNK, rows)) for begin in range(0, rows, CHUNK))
