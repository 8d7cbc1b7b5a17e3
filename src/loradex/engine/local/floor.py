"""How fast this machine reads memory and multiplies matrices: the floor that steps are measured against."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

BLOCK_BYTES = 256 << 20
"""Far more than any cache holds."""

# Rows, inputs and outputs of the product whose speed counts as the peak: large enough to reach it, small enough to
# take milliseconds.
_GEMM = (512, 2048, 4096)
_REPEATS = 5


def bandwidth() -> float:
    """Return the bytes a second at which memory is read: the best of a few sums over a large block."""
    block = torch.ones(BLOCK_BYTES // 4)
    return block.nbytes / min(_seconds(block.sum), _seconds(lambda: torch.dot(block, block)))


def peak(dtype: str) -> float:
    """Return the floating-point operations a second of a large matrix product in `dtype`, best of a few."""
    rows, inputs, outputs = _GEMM
    kind = getattr(torch, dtype)
    x = torch.randn(rows, inputs).to(kind)
    weight = torch.randn(outputs, inputs).to(kind)
    best = _seconds(lambda: torch.nn.functional.linear(x, weight))
    packed = _packed(x, weight)
    if packed is not None:
        best = min(best, _seconds(packed))
    return 2 * rows * inputs * outputs / best


def _packed(x: torch.Tensor, weight: torch.Tensor) -> Callable[[], object] | None:
    """Return the product on weights laid out for oneDNN, where this build of torch has it; often the faster one."""
    try:
        laid = torch.ops.mkldnn._reorder_linear_weight(weight, x.shape[0])
        run = torch.ops.mkldnn._linear_pointwise
        run(x, laid, None, "none", [], "")
    except (RuntimeError, AttributeError, NotImplementedError):
        return None
    return lambda: run(x, laid, None, "none", [], "")


def _seconds(work: Callable[[], object]) -> float:
    with torch.inference_mode():
        work()
        times = []
        for _ in range(_REPEATS):
            began = time.perf_counter()
            work()
            times.append(time.perf_counter() - began)
    return min(times)
