from __future__ import annotations

from pathlib import Path

import pytest

from loradex.core.mix import Mix
from loradex.engine.config import EngineConfig
from loradex.engine.fake import FakeEngine
from loradex.registry.registry import Registry

from .stress import stress


def names_one_version(text: str, mix: Mix[str]) -> bool:
    label = str(mix.map(lambda digest: digest[:8]))
    return "|" not in text and label.startswith(text.split(":")[0][: len(label)])


@pytest.mark.parametrize(("seed", "replaces"), [(1, 50), (2, 10), (3, 10)])
async def test_a_storm_leaves_nothing_and_mixes_nothing(tmp_path: Path, seed: int, replaces: int) -> None:
    engine = FakeEngine(EngineConfig(model="tiny", max_loras=3, max_num_seqs=4), tokens_per_second=1000)
    with Registry(tmp_path / "home") as registry:
        report = await stress(
            engine, registry, tmp_path / "adapters", seed=seed, replaces=replaces, names=names_one_version
        )
    assert report.counts["answered"] > 50
    assert report.counts["answered by a mix"] > 5
    assert report.counts["cancelled"] > 5
    assert report.counts["evictions"] > 2
    assert report.counts["replaced"] > replaces / 2


async def test_a_storm_with_immediate_replaces_leaves_nothing(tmp_path: Path) -> None:
    engine = FakeEngine(EngineConfig(model="tiny", max_loras=3, max_num_seqs=4), tokens_per_second=100)
    with Registry(tmp_path / "home") as registry:
        report = await stress(engine, registry, tmp_path / "adapters", seed=4, replaces=30, contents=20, immediate=1.0)
    assert report.counts["switched"] > 0, report.counts
