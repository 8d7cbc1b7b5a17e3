"""How long an engine takes to start: from an engine directory against from the checkpoint that it was built from."""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from pathlib import Path

from loradex.bench.bed import Plan
from loradex.bench.deck import Tell, base_folder
from loradex.bench.floor import measure
from loradex.bench.pairs import Pairs, in_turn
from loradex.bench.result import Record, Result
from loradex.engine.built import Limits
from loradex.engine.config import EngineConfig
from loradex.engine.factory import engine_part, make_engine
from loradex.errors import ConfigInvalid


async def start(plan: Plan, tell: Tell) -> Result:
    """Measure starts in turn, files in the page cache; the imports of libraries, once a process, are not among them.

    Raises:
        ConfigInvalid: the engine has no directories, or the model cannot be served.
    """
    part = engine_part(plan.engine, "produce")
    if part is None:
        raise ConfigInvalid(f"The engine {plan.engine} has no engine directories", hint="Leave `--engine` out")
    record = Record("start", plan.name)
    checkpoint = replace(plan.config, model=str(base_folder(plan.model)))
    with tempfile.TemporaryDirectory(prefix="loradex-bench-") as folder:
        built = await part.build(checkpoint, Limits(), Path(folder) / "engine", tell)
        mapped = EngineConfig(str(built.folder), kv_cache_memory=checkpoint.kv_cache_memory, threads=checkpoint.threads)
        a, b = await in_turn(
            lambda: _start_seconds(plan.engine, mapped),
            lambda: _start_seconds(plan.engine, checkpoint),
            plan.pairs,
            tell,
        )
        floor = await measure(plan.engine, built.model.dtype, built.model.device)
        least = built.bytes / floor.bandwidth if floor else None
    row = Pairs("start", "engine directory", "checkpoint", "s", tuple(a), tuple(b), "lower", floor=least)
    model = {"id": built.model.id, "dtype": built.model.dtype, "quantization": built.model.quantization}
    return record.result([row], floor=floor, workload={}, model=model | {"bytes": built.bytes}, raw={})


async def _start_seconds(name: str, config: EngineConfig) -> float:
    engine = make_engine(name, config)
    began = time.perf_counter()
    await engine.start()
    spent = time.perf_counter() - began
    await engine.stop()
    return spent
