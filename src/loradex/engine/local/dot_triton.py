"""The matrix product of our kernels for graphics cards."""

from __future__ import annotations

import triton
import triton.language as tl

_WIDEN = tl.constexpr(triton.knobs.runtime.interpret)
# Triton's interpreter multiplies the bits of bfloat16 as integers. In float32 the products are exact, as on a card.


@triton.jit
def dot(left, right, sums):
    """Return `sums + left right`, with sums in float32 and no shortcut for float32 operands."""
    if _WIDEN:
        left, right = left.to(tl.float32), right.to(tl.float32)
    return tl.dot(left, right, sums, input_precision="ieee")
