from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from loradex.core.adapter import AdapterRef
from loradex.core.defaults import NO_DEFAULTS, Defaults
from loradex.errors import AdapterNotFound
from loradex.registry.registry import Registry
from tests.adapters.making import BASE, make_adapter, make_tensors

ONE = Defaults(system="one", sampling={"temperature": 0.2})
TWO = Defaults(system="two")


@pytest.fixture
def add(tmp_path: Path, registry: Registry) -> Callable[..., AdapterRef]:
    def add(seed: int, defaults: Defaults | None = None, **options: object) -> AdapterRef:
        folder = tmp_path / str(seed)
        files = folder if folder.exists() else make_adapter(folder, make_tensors(seed=seed))
        staged = registry.stage(files, BASE, max_rank=16)
        return registry.commit("medical", dataclasses.replace(staged, defaults=defaults), **options)  # type: ignore[arg-type]

    return add


def told(registry: Registry) -> dict[int, Defaults]:
    return {version.version: version.defaults for version in registry.get("medical").versions}


def test_a_version_begins_with_its_own_or_with_those_of_what_the_name_means(
    registry: Registry, add: Callable[..., AdapterRef]
) -> None:
    add(1, ONE)
    add(2, serve=True)
    add(3, TWO, serve=True)
    add(4, NO_DEFAULTS)
    assert told(registry) == {1: ONE, 2: ONE, 3: TWO, 4: NO_DEFAULTS}
    assert registry.resolve("medical").defaults == NO_DEFAULTS
    assert registry.rollback("medical").defaults == TWO
    assert registry.resolve("medical@1").defaults == ONE


def test_they_are_set_by_version_and_history_tells(registry: Registry, add: Callable[..., AdapterRef]) -> None:
    add(1)
    add(2, serve=True)
    assert registry.configure("medical", 1, ONE, actor="ada").defaults == ONE
    assert registry.configure("medical", None, TWO).version == 2
    assert told(registry) == {1: ONE, 2: TWO}
    registry.configure("medical", None, TWO)  # nothing changes
    registry.configure("medical", 1, NO_DEFAULTS)
    entries = registry.history("medical")[2:]
    assert [(each.actor, each.action, each.to_version, each.note) for each in entries] == [
        ("ada", "set", 1, "system: one; sampling: {'temperature': 0.2}"),
        ("", "set", 2, "system: two"),
        ("", "set", 1, "nothing"),
    ]
    assert registry.rollback("medical").version == 1  # setting them is no change of meaning
    for name, version in (("medical", 9), ("nobody", None)):
        with pytest.raises(AdapterNotFound):
            registry.configure(name, version, ONE)


def test_content_that_is_there_takes_new_ones(registry: Registry, add: Callable[..., AdapterRef]) -> None:
    add(1, ONE)
    assert add(1).version == 1
    assert told(registry) == {1: ONE}
    assert add(1, TWO).version == 1
    assert told(registry) == {1: TWO}
    assert [each.action for each in registry.history("medical")] == ["add", "set"]
