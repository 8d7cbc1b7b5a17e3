"""From settings to a service."""

from __future__ import annotations

from pathlib import Path

import pytest

from loradex.engine.config import EngineConfig
from loradex.engine.fake import FakeEngine
from loradex.service import wiring
from loradex.service.wiring import make_service
from loradex.settings import Settings


def test_packs_lie_in_the_home_unless_a_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    configs: list[EngineConfig] = []
    monkeypatch.setattr(wiring, "make_engine", lambda name, config: configs.append(config) or FakeEngine(config))
    for named in (None, tmp_path / "other"):
        engine = EngineConfig(model="models/tiny-base", pack_dir=named)
        make_service(Settings(engine=engine, engine_name="fake", home=tmp_path)).registry.close()
    assert [config.pack_dir for config in configs] == [tmp_path / "packs", tmp_path / "other"]
