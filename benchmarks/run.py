"""What many adapters cost: the demo's base alone against its adapters mixed in one batch, in turn, in one process.

Prints ratios (medians of pairs). The physical floor beside them is the time to read the bytes of a step at the memory
bandwidth measured in the same run. `--json FILE` keeps the raw figures.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import torch

import loradex
from loradex.adapters.adapter import Adapter
from loradex.adapters.read import read_adapter
from loradex.core.request import GenerateRequest
from loradex.core.sampling import Sampling
from loradex.engine.config import EngineConfig
from loradex.engine.local.engine import LocalEngine

DEMO = Path(loradex.__file__).parent / "assets" / "demo"
PROMPT_TOKENS = 32
ANSWER_TOKENS = 32


@asynccontextmanager
async def engine_over(base: Path, adapters: list[Adapter]) -> AsyncIterator[LocalEngine]:
    """Run an engine with every adapter resident. The prefix cache is off: it would hide the prompts."""
    engine = LocalEngine(EngineConfig(model=str(base), max_loras=len(adapters), prefix_cache=False))
    await engine.start()
    try:
        for adapter in adapters:
            await engine.load(adapter)
        yield engine
    finally:
        await engine.stop()


async def seconds(engine: LocalEngine, deck: list[str | None], batch: int) -> float:
    """Answer `batch` equal requests at once, dealt over `deck`; return how long it took."""
    sampling = Sampling(temperature=0.0, max_tokens=ANSWER_TOKENS, ignore_eos=True)

    async def ask(i: int) -> None:
        tokens = tuple(range(10 + i, 10 + i + PROMPT_TOKENS))
        async for _ in engine.generate(GenerateRequest(str(i), tokens, sampling, deck[i % len(deck)])):
            pass

    began = time.perf_counter()
    await asyncio.gather(*(ask(i) for i in range(batch)))
    return time.perf_counter() - began


def bandwidth() -> float:
    """Return the bytes a second at which memory is read, best of five sums over 256 MiB."""
    block = torch.ones(1 << 26)
    times = []
    for _ in range(5):
        began = time.perf_counter()
        block.sum()
        times.append(time.perf_counter() - began)
    return block.nbytes / min(times)


async def mixed(engine: LocalEngine, deck: list[str | None], batch: int, pairs: int) -> dict[str, Any]:
    """Time base and deck in turn."""
    await seconds(engine, deck, batch)
    base, many = [], []
    for _ in range(pairs):
        base.append(await seconds(engine, [None], batch))
        many.append(await seconds(engine, deck, batch))
    ratios = [b / m for b, m in zip(base, many, strict=True)]
    return {"batch": batch, "base_seconds": base, "mixed_seconds": many, "ratio": statistics.median(ratios)}


async def loads(engine: LocalEngine, adapter: Adapter, count: int) -> list[float]:
    """Unload and load one adapter, with its file in the page cache; return seconds for each load."""
    times = []
    for _ in range(count):
        await engine.unload(adapter.digest)
        began = time.perf_counter()
        await engine.load(adapter)
        times.append(time.perf_counter() - began)
    return times


async def measure(pairs: int) -> dict[str, Any]:
    """Run everything on the demo model; return the raw figures."""
    adapters = [read_adapter(path) for path in sorted((DEMO / "adapters").iterdir()) if path.is_dir()]
    weights = sum(file.stat().st_size for file in (DEMO / "base").glob("*.safetensors"))
    async with engine_over(DEMO / "base", adapters) as engine:
        deck = [adapter.digest for adapter in adapters]
        rows = [await mixed(engine, deck, batch, pairs) for batch in (1, 4, 16)]
        load = await loads(engine, adapters[0], 20)
    step = weights + sum(adapter.bytes for adapter in adapters)
    return {
        "machine": {"cpu": platform.processor() or platform.machine(), "threads": torch.get_num_threads()},
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "loradex": loradex.__version__},
        "workload": {"prompt_tokens": PROMPT_TOKENS, "answer_tokens": ANSWER_TOKENS, "adapters": len(adapters)},
        "floor": {"bytes_of_a_step": step, "bandwidth": bandwidth()},
        "mixed": rows,
        "load_seconds": load,
    }


def show(result: dict[str, Any]) -> None:
    """Print the figures."""
    floor = result["floor"]
    least = floor["bytes_of_a_step"] / floor["bandwidth"]
    size, speed = floor["bytes_of_a_step"] / 1e6, floor["bandwidth"] / 1e9
    print(f"floor of a step: {size:.1f} MB at {speed:.1f} GB/s = {least * 1e3:.2f} ms")
    print("batch   base tok/s   mixed tok/s   mixed / base (median of pairs)   mixed step / floor")
    for row in result["mixed"]:
        tokens = row["batch"] * ANSWER_TOKENS
        base, many = statistics.median(row["base_seconds"]), statistics.median(row["mixed_seconds"])
        step = many / ANSWER_TOKENS
        print(f"{row['batch']:5} {tokens / base:12.0f} {tokens / many:13.0f} {row['ratio']:20.2f} {step / least:31.1f}")
    load = sorted(result["load_seconds"])
    print(f"load of one adapter, file in the page cache: median {load[len(load) // 2] * 1e3:.1f} ms")


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=7, help="pairs of runs for each batch size")
    parser.add_argument("--json", type=Path, help="write the raw figures here")
    options = parser.parse_args()
    result = asyncio.run(measure(options.pairs))
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")
    show(result)


if __name__ == "__main__":
    main()
