"""How fast this machine reads memory and multiplies matrices: the floor that steps are measured against."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from loradex.engine.local.team import dismiss

BLOCK_BYTES = 256 << 20
"""Far more than any cache of a CPU holds; a GPU, which reads so much in microseconds, gets a multiple."""

_GPU_BLOCKS = 16

# Rows, inputs and outputs of the product whose speed counts as the peak: large enough to reach it, small enough to
# take milliseconds.
_GEMM = (512, 2048, 4096)
_REPEATS = 5


def bandwidth(device: str = "cpu") -> float:
    """Return the bytes a second at which a device reads its memory: the best of a few sums over a large block."""
    where = torch.device(device)
    block = torch.ones(BLOCK_BYTES // 4 * (1 if where.type == "cpu" else _GPU_BLOCKS), device=where)
    return block.nbytes / min(_seconds(block.sum, where), _seconds(lambda: torch.dot(block, block), where))


def peak(dtype: str, device: str = "cpu") -> float:
    """Return the floating-point operations a second of a large matrix product of `dtype`, best of a few.

    On a CPU that of float32 counts as well: what is narrower can be computed in it without loss, and on processors
    without instructions for bfloat16 that is many times as fast.
    """
    where = torch.device(device)
    rows, inputs, outputs = (size * (1 if where.type == "cpu" else 4) for size in _GEMM)
    kinds = {getattr(torch, dtype)} | ({torch.float32} if where.type == "cpu" else set())
    return 2 * rows * inputs * outputs / min(_product(rows, inputs, outputs, kind, where) for kind in kinds)


def _product(rows: int, inputs: int, outputs: int, kind: torch.dtype, where: torch.device) -> float:
    """Return the seconds of one product."""
    x = torch.randn(rows, inputs, device=where).to(kind)
    weight = torch.randn(outputs, inputs, device=where).to(kind)
    best = _seconds(lambda: torch.nn.functional.linear(x, weight), where)
    packed = _packed(x, weight) if where.type == "cpu" else None
    return best if packed is None else min(best, _seconds(packed, where))


def _packed(x: torch.Tensor, weight: torch.Tensor) -> Callable[[], object] | None:
    """Return the product on weights laid out for oneDNN, where this build of torch has it; often the faster one."""
    try:
        laid = torch.ops.mkldnn._reorder_linear_weight(weight, x.shape[0])
        run = torch.ops.mkldnn._linear_pointwise
        run(x, laid, None, "none", [], "")
    except (RuntimeError, AttributeError, NotImplementedError):
        return None
    return lambda: run(x, laid, None, "none", [], "")


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    """Return the least time of a few; the first, in which libraries set themselves up, does not count."""

    def run() -> None:
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    with torch.inference_mode():
        run()
        times = []
        for _ in range(_REPEATS):
            began = time.perf_counter()
            run()
            times.append(time.perf_counter() - began)
    dismiss()  # an engine in this process needs the cores' attention for its own
    return min(times)
