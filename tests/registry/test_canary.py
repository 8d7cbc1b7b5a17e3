from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from loradex.core.adapter import AdapterRef
from loradex.errors import AdapterNotFound, Conflict, InvalidRequest
from loradex.registry import schema
from loradex.registry.records import Shadow
from loradex.registry.registry import HistoryEntry, Registry
from tests.adapters.making import BASE, make_adapter, make_base, make_tensors
from tests.registry.conftest import Add


def last(registry: Registry, name: str = "medical") -> HistoryEntry:
    return registry.history(name)[-1]


@pytest.fixture
def four(add: Add) -> list[AdapterRef]:
    return [add("medical", seed, serve=True) for seed in range(4)]


def test_a_canary_is_kept_told_and_ended(registry: Registry, four: list[AdapterRef], home: Path) -> None:
    record = registry.canary("medical", {3: 90, 4: 10}, actor="ada")
    assert (record.canary, record.current) == ({3: 90.0, 4: 10.0}, 3)
    with Registry(home) as again:
        meaning = again.meaning("medical", BASE.digest)
        assert (meaning.ref, dict(meaning.shares)) == (four[2], {3: 90.0, 4: 10.0})
        assert dict(meaning.refs) == {3: four[2], 4: four[3]}
    entry = last(registry)
    assert (entry.actor, entry.action, entry.note) == ("ada", "canary", "3=90 4=10")
    assert (entry.from_version, entry.to_version) == (3, 4)
    assert registry.end_canary("medical", actor="bo") == four[2]
    entry = last(registry)
    assert (entry.actor, entry.action, entry.note) == ("bo", "end_canary", "ended the canary 3=90 4=10")
    assert (entry.from_version, entry.to_version) == (4, 3)
    assert registry.get("medical").canary == {}
    with pytest.raises(AdapterNotFound, match="has no canary"):
        registry.end_canary("medical")


def test_what_names_a_version_or_an_alias_goes_round_it(registry: Registry, four: list[AdapterRef]) -> None:
    registry.promote("medical", 1, "prod")
    registry.canary("medical", {3: 90, 4: 10})
    for text, ref in {
        "medical@4": four[3],
        "medical@default": four[2],
        "medical@latest": four[3],
        "medical@prod": four[0],
        f"medical@sha256:{four[1].digest}": four[1],
    }.items():
        meaning = registry.meaning(text)
        assert (meaning.ref, meaning.shares) == (ref, {})


def test_what_is_missing_to_100_stays_where_it_is(registry: Registry, four: list[AdapterRef]) -> None:
    registry.promote("medical", 2)
    assert registry.canary("medical", {4: 10}).canary == {2: 90.0, 4: 10.0}
    assert registry.canary("medical", {4: 60}).canary == {2: 40.0, 4: 60.0}
    assert registry.get("medical").current == 2  # as long as it runs, what it goes back to stays
    assert len(registry.history("medical")) == 7
    registry.canary("medical", {4: 60})
    assert len(registry.history("medical")) == 7  # nothing changed


@pytest.mark.parametrize("change", ["promote", "promote again", "rollback", "add", "remove_alias"])
def test_another_meaning_of_the_name_ends_it(registry: Registry, four: list[AdapterRef], add: Add, change: str) -> None:
    registry.canary("medical", {3: 90, 4: 10})
    if change == "promote":
        registry.promote("medical", 4)
    elif change == "promote again":
        registry.promote("medical", 3)
    elif change == "rollback":
        assert registry.previous("medical") == four[2]
        assert registry.rollback("medical") == four[2]
    elif change == "add":
        assert add("medical", 9, serve=True).version == 5
    else:
        registry.remove_alias("medical", "default")
    assert registry.get("medical").canary == {}
    assert last(registry).note == "ended the canary 3=90 4=10"
    means = {"promote": 4, "add": 5, "remove_alias": 4}.get(change, 3)
    assert registry.resolve("medical").version == means


def test_what_means_the_same_leaves_it_alone(registry: Registry, four: list[AdapterRef], add: Add) -> None:
    registry.canary("medical", {3: 90, 4: 10})
    registry.promote("medical", 4, "prod")
    add("medical", 2, serve=True)  # the content of version 3, which the name means
    add("medical", 9)  # not served
    assert registry.get("medical").canary == {3: 90.0, 4: 10.0}


def test_one_version_is_taken_out(registry: Registry, four: list[AdapterRef]) -> None:
    registry.canary("medical", {2: 70, 3: 20, 4: 10})
    registry.end_canary("medical", 3, actor="loradex", action="rollback", note="9 of 10 failed")
    assert registry.get("medical").canary == {2: 90.0, 4: 10.0}
    assert (last(registry).action, last(registry).note) == ("rollback", "9 of 10 failed; 2=90 4=10")
    with pytest.raises(AdapterNotFound, match="no canary with version 3"):
        registry.end_canary("medical", 3)
    registry.end_canary("medical", 4)
    assert registry.get("medical").canary == {}


def test_a_version_that_answers_is_not_removed(registry: Registry, four: list[AdapterRef]) -> None:
    registry.canary("medical", {3: 90, 4: 10})
    with pytest.raises(Conflict, match="10 % of its requests"):
        registry.remove("medical", 4)
    registry.remove("medical", 1)
    registry.remove("medical")
    assert registry.list() == []


def test_a_version_is_added_as_a_canary(registry: Registry, add: Add) -> None:
    with pytest.raises(InvalidRequest, match="no version yet"):
        add("medical", 0, canary=10)
    assert registry.list() == []
    add("medical", 0)
    add("medical", 1, canary=10)
    assert (registry.get("medical").current, registry.get("medical").canary) == (1, {1: 90.0, 2: 10.0})
    assert (last(registry).action, last(registry).note) == ("add", "1=90 2=10")
    add("medical", 2, canary=0)
    assert registry.get("medical").canary == {1: 90.0, 2: 10.0}
    assert last(registry).note == "not served"
    with pytest.raises(InvalidRequest, match="its own canary"):
        add("medical", 0, canary=10)


def test_wrong_shares_are_refused_and_change_nothing(registry: Registry, four: list[AdapterRef], add: Add) -> None:
    add("medical", 0, make_base(layers=3, name="other"))
    before = registry.list()
    for shares, what in (
        ({3: 90, 4: 20}, "110 percent"),
        ({3: -1, 4: 10}, "version 3 is -1"),
        ({3: float("nan"), 4: 10}, "version 3 is nan"),
        ({4: 100}, "no canary"),
        ({3: 50, 5: 50}, "several base models"),
        ({}, "are missing"),
    ):
        with pytest.raises(InvalidRequest, match=what):
            registry.canary("medical", shares)
    with pytest.raises(AdapterNotFound, match="no version 9"):
        registry.canary("medical", {9: 10})
    with pytest.raises(AdapterNotFound, match="medcal"):
        registry.canary("medcal", {4: 10})
    assert registry.list() == before


def test_each_base_has_its_own(registry: Registry, four: list[AdapterRef], add: Add) -> None:
    other = make_base(layers=3, name="other")
    add("medical", 0, other)
    add("medical", 1, other)
    registry.canary("medical", {5: 80, 6: 20}, base=other.digest)
    assert registry.meaning("medical", BASE.digest).shares == {}
    assert registry.meaning("medical", other.digest).shares == {5: 80.0, 6: 20.0}
    registry.canary("medical", {1: 50, 2: 50})
    registry.end_canary("medical", base=other.digest)
    assert registry.meaning("medical", BASE.digest).shares == {1: 50.0, 2: 50.0}


def test_a_store_of_the_first_schema_is_brought_up(home: Path, tmp_path: Path) -> None:
    from alembic import command
    from sqlalchemy import create_engine

    from loradex.registry import migrate

    with Registry(home) as registry:
        for seed in range(2):
            staged = registry.stage(make_adapter(tmp_path / str(seed), make_tensors(seed=seed)), BASE, max_rank=16)
            registry.commit("medical", staged, actor="ada", serve=True)
        registry.promote("medical", 1, "prod")
        before = registry.list(), registry.history("medical")
    with create_engine(f"sqlite:///{home / 'registry.db'}").begin() as connection:
        config = migrate._config()
        config.attributes["connection"] = connection
        command.downgrade(config, "0001")
    with Registry(home) as registry:
        assert (registry.list(), registry.history("medical")) == before
    with sqlite3.connect(home / "registry.db") as database:
        assert database.execute("SELECT version_num FROM alembic_version").fetchone() == (schema.HEAD,)


def test_a_shadow_is_kept_told_and_ended(registry: Registry, four: list[AdapterRef], home: Path) -> None:
    registry.shadow("medical", 2, 12.5, actor="ada")
    registry.shadow("medical", 2, 12.5)  # nothing changed
    with Registry(home) as again:
        meaning = again.meaning("medical")
        assert (meaning.ref, meaning.shadow) == (four[3], Shadow(2, 12.5))
        assert dict(meaning.refs) == {2: four[1]}
        assert again.meaning("medical@3").shadow is None
    assert (last(registry).actor, last(registry).action, last(registry).note) == ("ada", "shadow", "12.5 %")
    assert len(registry.history("medical")) == 5
    with pytest.raises(Conflict, match="is its shadow"):
        registry.remove("medical", 2)
    registry.canary("medical", {4: 10, 3: 90})
    assert registry.get("medical").shadow == Shadow(2, 12.5)
    registry.end_shadow("medical")
    assert (last(registry).action, last(registry).from_version) == ("end_shadow", 2)
    with pytest.raises(AdapterNotFound, match="no shadow"):
        registry.end_shadow("medical")
    for percent in (0, -1, 101, float("nan")):
        with pytest.raises(InvalidRequest, match="percent"):
            registry.shadow("medical", 2, percent)
    registry.shadow("medical", 2)
    registry.remove("medical")
    assert registry.list() == []
