from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from loradex.core.adapter import AdapterRef, Reference
from loradex.errors import AdapterNotFound, Conflict, InvalidRequest
from loradex.registry.registry import Registry
from tests.adapters.making import BASE, make_adapter, make_base, make_tensors
from tests.registry.conftest import Add, files

OTHER = make_base(layers=3, name="other")


def test_a_version_is_registered_with_all_that_is_known(registry: Registry, add: Add, tmp_path: Path) -> None:
    ref = add("medical", actor="ada")
    assert (ref.name, ref.version, len(ref.digest)) == ("medical", 1, 64)
    record = registry.get("medical")
    assert (record.name, record.enabled, record.aliases, record.current) == ("medical", True, {}, 1)
    (version,) = record.versions
    assert (version.version, version.digest, version.rank, version.modules) == (1, ref.digest, 4, ("q_proj", "v_proj"))
    assert (version.base_digest, version.base_name, version.parameters) == (BASE.digest, "tiny", 512)
    assert version.source == str(tmp_path / "tiny-12-0")
    assert version.config["lora_alpha"] == 8
    assert datetime.now(UTC) - version.created_at < timedelta(minutes=1)
    assert version.bytes == registry.adapter(ref.digest).bytes
    (entry,) = registry.history("medical")
    assert (entry.actor, entry.action, entry.from_version, entry.to_version) == ("ada", "add", None, 1)
    assert entry.at.tzinfo is not None


def test_versions_count_up_and_equal_content_keeps_its_number(registry: Registry, add: Add) -> None:
    assert [add("medical", seed).version for seed in (0, 1, 0, 2, 1)] == [1, 2, 1, 3, 2]
    assert add("legal", 0).version == 1
    assert [record.name for record in registry.list()] == ["legal", "medical"]
    assert len(registry.history("medical")) == 3  # adding what is there changes nothing


def test_numbers_of_removed_versions_are_not_given_again(registry: Registry, add: Add) -> None:
    add("medical", 0)
    add("medical", 1)
    registry.remove("medical", 2)
    assert registry.resolve("medical").version == 1
    assert add("medical", 2).version == 3


def test_every_form_of_reference_is_resolved(registry: Registry, add: Add) -> None:
    one, two, three = (add("medical", seed) for seed in range(3))
    registry.promote("medical", 1, "prod")
    for text, ref in {
        "medical": three,
        "medical@latest": three,
        "medical@2": two,
        "medical@prod": one,
        f"medical@sha256:{two.digest}": two,
        f"medical@sha256:{one.digest[:12]}": one,
    }.items():
        assert registry.resolve(text) == registry.resolve(Reference.parse(text), BASE.digest) == ref
    registry.promote("medical", 2)
    assert registry.resolve("medical") == two
    assert registry.resolve("medical@latest") == three


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("medcal", "There is no adapter `medcal`; did you mean `medical`?"),
        ("zzz", "There is no adapter `zzz`"),
        ("medical@7", "`medical` has no version 7; it has 1"),
        ("medical@prd", "`medical` has no alias `prd`; it has `prod`"),
        ("medical@sha256:0000", "No version of `medical` has a digest that begins with 0000"),
    ],
)
def test_what_does_not_exist_is_not_found_with_what_is_near(registry: Registry, add: Add, text: str, what: str) -> None:
    add("medical")
    registry.promote("medical", 1, "prod")
    with pytest.raises(AdapterNotFound) as error:
        registry.resolve(text)
    assert error.value.message == what
    assert error.value.hint


@pytest.mark.parametrize("text", ["", "@1", "a b", "a@0", "a@sha256:xyz", "../etc", "a@b@c"])
def test_references_outside_the_grammar_are_invalid(registry: Registry, text: str) -> None:
    with pytest.raises(InvalidRequest):
        registry.resolve(text)


@pytest.mark.parametrize("name", ["base", "", "a/b", "-a", "a@1", "a:b"])
def test_names_that_could_not_be_asked_for_are_refused(registry: Registry, add: Add, name: str) -> None:
    with pytest.raises(InvalidRequest):
        add(name)
    assert registry.list() == []


@pytest.mark.parametrize("alias", ["latest", "3", "a b", ""])
def test_aliases_that_could_not_be_asked_for_are_refused(registry: Registry, add: Add, alias: str) -> None:
    add("medical")
    with pytest.raises(InvalidRequest):
        registry.promote("medical", 1, alias)
    assert registry.get("medical").aliases == {}


def test_serve_makes_the_bare_name_mean_the_version(registry: Registry, add: Add) -> None:
    add("medical", 0, serve=True)
    add("medical", 1, serve=True)
    assert registry.get("medical").aliases == {}  # the newest is meant anyhow
    add("medical", 0, serve=True)  # an old one again: only an alias can say so
    assert (registry.get("medical").aliases, registry.resolve("medical").version) == ({"default": 1}, 1)
    add("medical", 2)
    assert registry.resolve("medical").version == 1  # added, not served
    add("medical", 3, serve=True)
    assert (registry.get("medical").aliases, registry.resolve("medical").version) == ({"default": 4}, 4)


def test_rollback_goes_to_what_the_name_meant_before_and_back_again(registry: Registry, add: Add) -> None:
    one, two = add("medical", 0, serve=True), add("medical", 1, serve=True)
    assert registry.previous("medical") == one
    assert registry.rollback("medical", actor="ada") == one
    assert registry.resolve("medical") == one
    assert registry.previous("medical") == two
    assert registry.rollback("medical") == two
    three = add("medical", 2, serve=True)
    assert registry.resolve("medical") == three
    assert registry.previous("medical") == two
    entries = [(entry.action, entry.from_version, entry.to_version) for entry in registry.history("medical")]
    assert entries == [("add", None, 1), ("add", 1, 2), ("rollback", 2, 1), ("rollback", 1, 2), ("add", 2, 3)]
    assert registry.history("medical")[2].actor == "ada"


def test_rollback_passes_over_versions_that_are_gone(registry: Registry, add: Add) -> None:
    one = add("medical", 0, serve=True)
    add("medical", 1, serve=True)
    add("medical", 2, serve=True)
    registry.remove("medical", 2)
    assert registry.rollback("medical") == one


def test_there_may_be_nothing_to_go_back_to(registry: Registry, add: Add) -> None:
    add("medical")
    registry.promote("medical", 1, "prod")  # another alias is another matter
    with pytest.raises(AdapterNotFound, match="nothing to go back to"):
        registry.rollback("medical")
    with pytest.raises(AdapterNotFound):
        registry.previous("legal")


def test_aliases_move_and_go(registry: Registry, add: Add) -> None:
    add("medical", 0)
    two = add("medical", 1)
    assert registry.promote("medical", 2, "prod", actor="ada") == two
    registry.promote("medical", 1, "prod")
    registry.promote("medical", 1, "prod")
    registry.remove_alias("medical", "prod")
    entries = [
        (entry.action, entry.alias, entry.from_version, entry.to_version) for entry in registry.history("medical")
    ]
    assert entries[2:] == [
        ("promote", "prod", None, 2),
        ("promote", "prod", 2, 1),
        ("remove_alias", "prod", 1, None),
    ]
    assert registry.get("medical").aliases == {}
    with pytest.raises(AdapterNotFound, match="no alias `prod`"):
        registry.remove_alias("medical", "prod")
    with pytest.raises(AdapterNotFound, match="no version 3"):
        registry.promote("medical", 3)


def test_without_its_alias_the_bare_name_means_the_newest_again(registry: Registry, add: Add) -> None:
    one, two = add("medical", 0), add("medical", 1)
    registry.promote("medical", 1)
    assert registry.resolve("medical") == one
    registry.remove_alias("medical", "default")
    assert registry.resolve("medical") == two
    assert registry.previous("medical") == one


def test_a_disabled_name_is_not_found_and_loses_nothing(registry: Registry, add: Add) -> None:
    ref = add("medical")
    registry.enable("medical", False, actor="ada")
    registry.enable("medical", False)
    for text in ("medical", "medical@1"):
        with pytest.raises(AdapterNotFound, match="disabled"):
            registry.resolve(text)
    assert not registry.get("medical").enabled
    assert len(registry.list()) == 1
    with pytest.raises(AdapterNotFound) as error:
        registry.resolve("medica")
    assert "medical" not in error.value.message
    registry.enable("medical", True)
    assert registry.resolve("medical") == ref
    assert [entry.action for entry in registry.history("medical")] == ["add", "disable", "enable"]


def test_adding_enables_again(registry: Registry, add: Add) -> None:
    add("medical")
    registry.enable("medical", False)
    assert add("medical") == registry.resolve("medical")


def test_a_version_with_an_alias_stays(registry: Registry, add: Add, home: Path) -> None:
    add("medical", 0)
    add("medical", 1)
    registry.promote("medical", 1, "prod")
    before = registry.list(), files(home)
    with pytest.raises(Conflict, match="alias `prod` points to version 1") as error:
        registry.remove("medical", 1)
    assert "promote medical" in error.value.hint
    assert (registry.list(), files(home)) == before


def test_files_go_with_the_last_version_that_has_them(registry: Registry, add: Add, home: Path) -> None:
    shared = add("medical", 0)
    add("legal", 0)
    own = add("medical", 1)
    registry.remove("medical", 2)
    assert not any(own.digest in path for path in files(home))
    registry.remove("medical")
    assert registry.adapter(shared.digest).digest == shared.digest
    registry.remove("legal", 1)  # its last version: the name goes too
    assert registry.list() == []
    assert files(home) == {}
    for name in ("medical", "legal"):
        with pytest.raises(AdapterNotFound):
            registry.remove(name)
    with pytest.raises(AdapterNotFound):
        registry.history("medical")


def test_a_name_with_aliases_goes_whole(registry: Registry, add: Add, home: Path) -> None:
    add("medical", 0)
    registry.promote("medical", 1, "prod")
    registry.remove("medical")
    assert (registry.list(), files(home)) == ([], {})
    assert add("medical", 1).version == 1


def test_each_base_sees_its_own_versions(registry: Registry, add: Add) -> None:
    one, two = add("medical", 0), add("medical", 1, OTHER)
    add("legal", 2, OTHER)
    assert registry.resolve("medical", BASE.digest) == one
    assert registry.resolve("medical", OTHER.digest) == two
    assert [record.name for record in registry.list(BASE.digest)] == ["medical"]
    assert [version.version for version in registry.get("medical", OTHER.digest).versions] == [2]
    with pytest.raises(AdapterNotFound, match="no version 2"):
        registry.resolve("medical@2", BASE.digest)
    with pytest.raises(AdapterNotFound, match="no version for this base model"):
        registry.resolve("legal", BASE.digest)
    with pytest.raises(AdapterNotFound) as error:
        registry.resolve("lega", BASE.digest)
    assert "legal" not in error.value.message


def test_an_alias_of_one_base_leaves_the_other_alone(registry: Registry, add: Add) -> None:
    add("medical", 0)
    add("medical", 1)
    add("medical", 0, OTHER)
    add("medical", 1, OTHER)
    registry.promote("medical", 1)
    registry.promote("medical", 3)
    assert registry.resolve("medical", BASE.digest).version == 1
    assert registry.resolve("medical", OTHER.digest).version == 3
    assert registry.rollback("medical", base=OTHER.digest).version == 4
    assert registry.resolve("medical", BASE.digest).version == 1
    registry.remove_alias("medical", "default", base=BASE.digest)
    assert registry.resolve("medical", BASE.digest).version == 2
    assert registry.get("medical").aliases == {"default": 4}


def test_the_same_content_on_another_base_is_another_version(registry: Registry, tmp_path: Path) -> None:
    folder = make_adapter(tmp_path / "a", make_tensors())
    refs = [registry.commit("medical", registry.stage(folder, base, max_rank=16)) for base in (BASE, OTHER, BASE)]
    assert [ref.version for ref in refs] == [1, 2, 1]
    assert len({ref.digest for ref in refs}) == 1
    assert registry.resolve("medical", OTHER.digest).version == 2
    assert registry.resolve(f"medical@sha256:{refs[0].digest[:8]}", BASE.digest) == AdapterRef(
        "medical", 1, refs[0].digest
    )


def test_everything_is_there_after_opening_again(registry: Registry, add: Add, home: Path) -> None:
    add("medical", 0)
    add("medical", 1)
    registry.promote("medical", 1, "prod")
    before = registry.list(), registry.history("medical")
    registry.close()
    with Registry(home) as again:
        assert (again.list(), again.history("medical")) == before
