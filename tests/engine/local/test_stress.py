"""The storm of the service's tests over the real engine: no error, no mixed version, no lease or block left."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from loradex.engine.config import EngineConfig
from loradex.engine.local.engine import LocalEngine
from loradex.registry.registry import Registry
from tests.service.stress import stress

from .tiny import Family


@pytest.mark.parametrize(
    ("seed", "immediate"),
    [(1, 0.0), (3, 0.5), *(pytest.param(s, s % 2 * 0.3, marks=pytest.mark.slow) for s in range(4, 12))],
)
async def test_nothing_is_mixed_lost_or_left(
    seed: int, immediate: float, family: Callable[[str], Family], tmp_path: Path
) -> None:
    # So little cache that sequences are preempted now and then.
    config = EngineConfig(
        model=str(family("qwen2").base),
        max_loras=3,
        max_batched_tokens=32,
        max_prefill_tokens=16,
        kv_cache_memory=12 * 16 * 512,
        pack_dir=tmp_path / "home" / "packs",
        threads=1,
    )
    engine = LocalEngine(config)
    seen = {}

    stopping = engine.stop

    async def remember_and_stop() -> None:
        seen["stats"] = engine.stats()
        await stopping()

    engine.stop = remember_and_stop
    report = await stress(engine, Registry(tmp_path / "home"), tmp_path, seed=seed, immediate=immediate)
    stats = seen["stats"]
    assert stats.blocks_free == stats.blocks_total
    assert report.counts["answered"] > 5
    assert report.counts["replaced"] > 10
    assert report.counts["evictions"] > 0
    assert immediate == 0 or report.counts["switched"] > 0
