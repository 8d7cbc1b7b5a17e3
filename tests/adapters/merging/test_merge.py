from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from loradex.adapters.check import check_folder
from loradex.adapters.formats.convert import convert
from loradex.adapters.merging.merge import Member, merge
from loradex.adapters.merging.recipe import Recipe
from loradex.errors import AdapterInvalid, Conflict, FilesNotFound, InvalidRequest
from tests.adapters.making import BASE, make_adapter, make_base, make_tensors


def members(tmp_path: Path, *options: dict[str, Any]) -> list[Member]:
    """Adapters of some ranks and kinds of modules; other options go into their configuration."""
    found = []
    for seed, each in enumerate(options):
        tensors = make_tensors(each.get("r", 4), kinds=each.get("target_modules", ("q_proj", "v_proj")), seed=seed)
        folder = make_adapter(tmp_path / f"m{seed}", tensors, **each)
        found.append(Member(f"m{seed}", folder, 0.5))
    return found


def test_what_is_merged_can_be_served_and_is_the_same_each_time(tmp_path: Path) -> None:
    found = members(tmp_path, {"r": 4}, {"r": 4, "target_modules": ("q_proj", "up_proj")})
    told: list[float] = []
    for name in ("one", "two"):
        done = merge(found, Recipe("dare_ties", 0.5, seed=3), tmp_path / name, BASE, told.append)
    digests = {check_folder(tmp_path / name, BASE, 8).digest for name in ("one", "two")}
    assert len(digests) == 1
    merge(found, Recipe("dare_ties", 0.5, seed=4), tmp_path / "other", BASE)
    assert check_folder(tmp_path / "other", BASE, 8).digest not in digests
    assert check_folder(tmp_path / "one", BASE, 8).modules == ("q_proj", "up_proj", "v_proj")
    assert (done.rank, done.modules) == (4, 6)
    assert told[5] == told[-1] == 1.0
    assert not list(tmp_path.glob(".*"))


def test_ranks_follow_from_who_adapts_a_module(tmp_path: Path) -> None:
    found = members(tmp_path, {"r": 2}, {"r": 3, "target_modules": ("q_proj",)})
    merge(found, Recipe("cat"), tmp_path / "cat")
    tensors = load_file(tmp_path / "cat" / "adapter_model.safetensors")
    ranks = {name.split(".")[-3]: len(tensor) for name, tensor in tensors.items() if "lora_A" in name}
    assert ranks == {"q_proj": 5, "v_proj": 2}
    config = json.loads((tmp_path / "cat" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], len(config["rank_pattern"])) == (2, 2, 2)


def test_members_may_come_in_other_formats(tmp_path: Path) -> None:
    one, two = members(tmp_path, {"r": 4}, {"r": 4})
    convert(two.path, "edge", tmp_path / "edge", BASE)
    convert(tmp_path / "edge", "peft", tmp_path / "back", BASE)
    for name, path in (("direct", tmp_path / "edge"), ("through", tmp_path / "back")):
        merge([one, Member("two", path, 0.3)], Recipe(), tmp_path / name, BASE)
    found = [load_file(tmp_path / name / "adapter_model.safetensors") for name in ("direct", "through")]
    assert all(np.array_equal(tensor, found[1][key]) for key, tensor in found[0].items())


def test_members_that_name_other_bases_are_noted(tmp_path: Path) -> None:
    found = members(tmp_path, {"base_model_name_or_path": "a/one"}, {"base_model_name_or_path": "a/two"})
    done = merge(found, Recipe(), tmp_path / "out")
    assert done.notes == ("they name different bases: `m0` a/one, `m1` a/two",)


@pytest.mark.parametrize(
    ("options", "recipe", "said"),
    [
        (({"r": 4}, {"r": 2}), Recipe("linear"), "`linear` takes equal ranks; in 4 modules they differ"),
        (({"r": 4}, {"r": 2}), Recipe("ties", 0.5), "Take `cat`, or a method that ends in `svd`"),
        (({"r": 4}, {"r": 4, "alora_invocation_tokens": [1]}), Recipe(), "alora_invocation_tokens"),
    ],
)
def test_what_does_not_go_together_is_refused(
    tmp_path: Path, options: tuple[dict[str, Any], ...], recipe: Recipe, said: str
) -> None:
    with pytest.raises(AdapterInvalid, match=said):
        merge(members(tmp_path, *options), recipe, tmp_path / "out", BASE)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m0", "m1"]


def test_other_bases_files_and_numbers_are_refused_and_leave_nothing(tmp_path: Path) -> None:
    one, two = members(tmp_path, {}, {})
    wide = Member("wide", make_adapter(tmp_path / "wide", make_tensors(base=make_base(hidden=32))), 1.0)
    with pytest.raises(AdapterInvalid, match="of different bases"):
        merge([one, wide], Recipe(), tmp_path / "out")
    with pytest.raises(AdapterInvalid, match="The result is not finite in 4 modules"):
        merge([one, Member("two", two.path, 1e300)], Recipe(), tmp_path / "out")
    with pytest.raises(AdapterInvalid, match="belongs to another base"):
        merge([one, two], Recipe(), tmp_path / "out", make_base(hidden=32))
    with pytest.raises(FilesNotFound):
        merge([one, Member("gone", tmp_path / "gone", 1.0)], Recipe(), tmp_path / "out")
    with pytest.raises(Conflict):
        merge([one, two], Recipe(), two.path)
    with pytest.raises(InvalidRequest, match="two adapters or more"):
        merge([one], Recipe(), tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m0", "m1", "wide"]


def test_more_than_pairs_cannot_be_merged(tmp_path: Path) -> None:
    one, _ = members(tmp_path, {}, {})
    tensors = make_tensors() | {"base_model.model.model.norm.weight": np.ones(16, np.float32)}
    saved = make_adapter(tmp_path / "saved", tensors, modules_to_save=["norm"])
    with pytest.raises(AdapterInvalid, match="no low-rank pair of a linear"):
        merge([one, Member("saved", saved, 1.0)], Recipe(), tmp_path / "out")
