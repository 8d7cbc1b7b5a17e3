"""Root-mean-square norms of few rows, compiled by Numba: one call where transformers makes seven operations.

`y = w * round(x / sqrt(mean(x^2) + eps))`, rounded where Llama and its kin round: the quotient to the storage type,
then the product. Sums are float32. Importing this module compiles it (a cache on disk makes the next import quick). It
holds C functions which take the address of a job, int64 fields as named below: `bf16` and `fp32`, and `bf16_shared`,
which several threads may run, and which can add to the input first.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import cfunc, njit, types

from loradex.engine.local.lora_numba import _add, _either, _high, _low, _round, _values, _words

# The fields of a job. A change here must stay in this file: the cache on disk looks at no other.
INPUT = 0  # address of the input, [rows, width]
OUTPUT = 1  # address of the output, [rows, width]
ROWS = 2
WEIGHT = 3  # address of the weight, [width]
WIDTH = 4  # even where values are bfloat16
EPSILON = 5  # as the bits of a float64
TAKEN = 6  # rows taken so far by those that share the job; 0 at the start
ADDED = 7  # address of [rows, width] that is added to the input, which then holds the sum; 0 for nothing
FIELDS = 8


@njit(fastmath={"reassoc", "contract", "nsz", "arcp"})
def _squares(x: Any) -> Any:
    total = np.float32(0)
    for j in range(x.size):
        low, high = _low(x[j]), _high(x[j])
        total += low * low + high * high
    return total


@njit
def _narrowed(value: Any, word: Any) -> Any:
    """Return a float32 as it is after storage in values of the kind of `word`."""
    return value if _values(word) == 1 else _high(np.uint32(_round(value)))


@njit
def _both(low: Any, high: Any) -> Any:
    """Return the word of two bfloat16 nearest to these."""
    return (_round(low) >> np.uint32(16)) | (_round(high) & np.uint32(0xFFFF0000))


@njit
def _row(address: Any, row: Any, word: Any) -> None:
    job = _words(address, FIELDS, np.int64(0))
    width = job[WIDTH] // _values(word)
    epsilon = np.float32(_words(address, FIELDS, np.float64(0))[EPSILON])
    weight = _words(job[WEIGHT], width, word)
    x = _words(job[INPUT] + 4 * row * width, width, word)
    y = _words(job[OUTPUT] + 4 * row * width, width, word)
    factor = np.float32(1) / np.sqrt(_squares(x) / np.float32(job[WIDTH]) + epsilon)
    for j in range(width):
        low = _low(weight[j]) * _narrowed(_low(x[j]) * factor, word)
        high = _high(weight[j]) * _narrowed(_high(x[j]) * factor, word)
        y[j] = _either(x[j], low, _both(low, high))


@njit
def _add_row(address: Any, row: Any) -> None:
    job = _words(address, FIELDS, np.int64(0))
    width = job[WIDTH] // 2
    x = _words(job[INPUT] + 4 * row * width, width, np.uint32(0))
    y = _words(job[ADDED] + 4 * row * width, width, np.uint32(0))
    for j in range(width):
        x[j] = _both(_low(x[j]) + _low(y[j]), _high(x[j]) + _high(y[j]))


@njit
def _run(address: Any, word: Any) -> None:
    for row in range(_words(address, FIELDS, np.int64(0))[ROWS]):
        _row(address, row, word)


@cfunc(types.void(types.int64), cache=True)
def bf16(address: Any) -> None:
    """Run a job whose values are bfloat16."""
    _run(address, np.uint32(0))


@cfunc(types.void(types.int64), cache=True)
def bf16_shared(address: Any) -> None:
    """Run a job whose values are bfloat16, with others."""
    job = _words(address, FIELDS, np.int64(0))
    row = _add(address + 8 * TAKEN, 1)
    while row < job[ROWS]:
        if job[ADDED]:
            _add_row(address, row)
        _row(address, row, np.uint32(0))
        row = _add(address + 8 * TAKEN, 1)


@cfunc(types.void(types.int64), cache=True)
def fp32(address: Any) -> None:
    """Run a job whose values are float32."""
    _run(address, np.float32(0))
