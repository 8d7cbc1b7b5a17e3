"""The LoRA kernel against the reference and the floor, on the projections of Qwen2.5-0.5B, rank 16, bfloat16.

Kernel and reference run in turn in one process, over so many layers that adapters come from memory and not from a
cache. The floor is the time to read the bytes of the distinct adapters once, at the bandwidth measured between them.

    python benchmarks/lora.py [--threads 1] [--pairs 9] [--decks 1/1 16/1 16/16 64/64]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from numba import njit

from loradex.engine.local.batch import Narrow
from loradex.engine.local.lora import LoraPair, Segment, apply_lora
from loradex.engine.local.lora_job import NARROW, LoraJob

SHAPES = [(896, 896), (896, 128), (896, 128), (896, 896), (896, 4864), (896, 4864), (4864, 896)]
LAYERS, RANK = 24, 16
BIG = np.ones(1 << 24, np.int64)


@njit(cache=True)
def read(array: np.ndarray) -> int:
    """Read an array once, in four streams."""
    a = b = c = d = np.int64(0)
    quarter = array.size // 4
    for i in range(quarter):
        a ^= array[i]
        b ^= array[quarter + i]
        c ^= array[2 * quarter + i]
        d ^= array[3 * quarter + i]
    return a ^ b ^ c ^ d


class Linear:
    """One projection with its adapters, for both paths. Each call adds to the same output."""

    def __init__(self, shape: tuple[int, int], rows: int, adapters: int) -> None:
        self.x, self.y = torch.randn(rows, shape[0]).bfloat16(), torch.zeros(rows, shape[1]).bfloat16()
        self.job = LoraJob(*shape, adapters, torch.bfloat16)
        self.table = []
        for slot in range(adapters):
            a, b = torch.randn(RANK, shape[0]) / shape[0], torch.randn(RANK, shape[1])
            self.table.append(LoraPair(a.bfloat16(), b.bfloat16(), 1.0))
            self.job.put(slot, self.table[-1])

    def kernel(self, segments: list[Segment], narrow: Narrow) -> None:
        """Add by the kernel."""
        self.job.add(self.x, self.y, narrow)

    def reference(self, segments: list[Segment], narrow: Narrow) -> None:
        """Add by the reference."""
        apply_lora(self.x, self.y, segments, self.table)

    @property
    def bytes(self) -> int:
        """What reading the distinct adapters once takes."""
        return sum(pair.a.nbytes + pair.b.nbytes for pair in self.table)


def seconds(work: Callable[[], object]) -> float:
    """Return how long `work` takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


@torch.inference_mode()
def measure(rows: int, adapters: int, pairs: int) -> str:
    """Return one line: milliseconds for all linears of the model, and the ratios."""
    layers = 2 if adapters > 16 else 6
    linears = [Linear(shape, rows, adapters) for _ in range(layers) for shape in SHAPES]
    each = rows // adapters
    segments = [Segment(i * each, (i + 1) * each, i) for i in range(adapters)]
    narrow = Narrow(segments)
    taken: dict[str, list[float]] = {"read": [], "kernel": [], "reference": []}
    for _ in range(pairs):
        for path in (Linear.kernel, Linear.reference):
            # Reading this much also leaves nothing of the adapters in a cache.
            taken["read"].append(seconds(lambda: read(BIG)))
            taken[path.__name__].append(seconds(lambda path=path: [path(own, segments, narrow) for own in linears]))
    kernel, reference = (statistics.median(taken[name]) for name in ("kernel", "reference"))
    bandwidth = BIG.nbytes / statistics.median(taken["read"])
    floor = sum(own.bytes for own in linears) / bandwidth
    ratio = statistics.median(r / k for r, k in zip(taken["reference"], taken["kernel"], strict=True))
    scale = 1e3 * LAYERS / layers
    return (
        f"{rows:>3}/{adapters:<3} {'kernel' if each <= NARROW else 'kernel (not used: too many rows)'} "
        f"{kernel * scale:7.2f} ms  {kernel / floor:5.2f} floors   reference {reference * scale:8.2f} ms  "
        f"reference/kernel {ratio:5.2f}   floor {floor * scale:6.2f} ms at {bandwidth / 1e9:.1f} GB/s"
    )


def main() -> None:
    """Print one line a deck."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--decks", nargs="+", default=["1/1", "16/1", "16/16", "64/64"], metavar="ROWS/ADAPTERS")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    read(BIG)
    print(f"rows/adapters, {options.threads} threads, medians of {options.pairs} pairs, torch {torch.__version__}")
    for deck in options.decks:
        rows, adapters = map(int, deck.split("/"))
        print(measure(rows, adapters, options.pairs), flush=True)


if __name__ == "__main__":
    main()
