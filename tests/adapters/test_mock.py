from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from loradex.adapters.check import check
from loradex.adapters.formats.convert import read_lora, write_adapter
from loradex.adapters.formats.detect import EDGE_WEIGHTS
from loradex.adapters.mock import random_lora
from loradex.adapters.read import read_adapter
from loradex.errors import Conflict, InvalidRequest
from tests.adapters.making import BASE


def test_it_fits_its_base_and_changes_it(tmp_path: Path) -> None:
    lora = random_lora(BASE, 4, alpha=8)
    size, notes = write_adapter(lora, "peft", tmp_path / "a", BASE)
    assert notes == []
    adapter = read_adapter(tmp_path / "a")
    assert check(adapter, BASE, 8).problems == ()
    assert adapter.layers.keys() == BASE.linears.keys()
    assert {layer.scaling for layer in adapter.layers.values()} == {2.0}
    assert size >= adapter.bytes
    assert all(pair.a.widened().any() and pair.b.widened().any() for pair in lora.pairs.values())
    with pytest.raises(Conflict):
        write_adapter(lora, "peft", tmp_path / "a", BASE)


def test_edge_files_hold_the_same_pairs(tmp_path: Path) -> None:
    lora = random_lora(BASE, 4, alpha=4)
    write_adapter(lora, "edge", tmp_path / "a", BASE)
    renamed = tmp_path / "adapter.safetensors"
    (tmp_path / "a" / EDGE_WEIGHTS).rename(renamed)
    back = read_lora(renamed, BASE)  # a file under any name
    assert back.pairs.keys() == lora.pairs.keys()
    for name, pair in lora.pairs.items():
        np.testing.assert_array_equal(back.pairs[name].b.widened(), pair.b.widened())


def test_peft_files_are_found_by_their_weights(tmp_path: Path) -> None:
    write_adapter(random_lora(BASE, 4, alpha=4), "peft", tmp_path / "a", BASE)
    assert read_lora(tmp_path / "a" / "adapter_model.safetensors").pairs.keys() == BASE.linears.keys()


def test_equal_seeds_are_equal_adapters() -> None:
    one, same, other = (random_lora(BASE, 2, alpha=2, seed=seed) for seed in (1, 1, 2))
    name = next(iter(one.pairs))
    np.testing.assert_array_equal(one.pairs[name].a.values, same.pairs[name].a.values)
    assert (one.pairs[name].a.values != other.pairs[name].a.values).any()


def test_modules_may_be_chosen_and_wrong_ones_are_named() -> None:
    assert all(name.endswith("q_proj") for name in random_lora(BASE, 2, alpha=2, modules=["q_proj"]).pairs)
    with pytest.raises(InvalidRequest, match="no linear called 'q_porj'") as refused:
        random_lora(BASE, 2, alpha=2, modules=["q_porj"])
    assert "q_proj" in refused.value.hint
    with pytest.raises(InvalidRequest, match="rank is 0"):
        random_lora(BASE, 0, alpha=2)
