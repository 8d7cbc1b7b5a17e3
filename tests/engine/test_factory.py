from __future__ import annotations

import sys

import pytest

from loradex import engine as engines
from loradex.engine import local
from loradex.engine.config import EngineConfig
from loradex.engine.factory import engine_names, engine_part, make_engine
from loradex.engine.fake import FakeEngine
from loradex.errors import ConfigInvalid, MissingExtra


def test_engines_are_found_by_name() -> None:
    assert {"fake", "local"} <= set(engine_names())
    engine = make_engine("fake", EngineConfig(served_name="me"))
    assert isinstance(engine, FakeEngine)
    assert engine.info.id == "me"


def test_an_unknown_engine_is_refused_with_what_looks_like_it() -> None:
    with pytest.raises(ConfigInvalid) as caught:
        make_engine("fakee", EngineConfig())
    assert "fake" in caught.value.hint


def test_without_torch_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    # The package is imported anew, and must not stay where its modules are missed afterwards.
    monkeypatch.setattr(engines, "local", local)
    for name in [name for name in sys.modules if name.startswith("loradex.engine.local")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtra) as caught:
        make_engine("local", EngineConfig())
    assert "loradex[local]" in caught.value.hint


def test_a_part_of_an_engine_is_found_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert engine_part("local", "floor").peak
    assert engine_part("local", "nothing") is None
    assert engine_part("fake", "floor") is None
    with pytest.raises(ConfigInvalid):
        engine_part("fakee", "floor")
    monkeypatch.delitem(sys.modules, "loradex.engine.local.floor")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtra):
        engine_part("local", "floor")
