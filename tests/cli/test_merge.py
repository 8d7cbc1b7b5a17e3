from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.cli.conftest import Loradex
from tests.server.serving import Deck, save_adapter


def product(folder: Path, module: str = "model.layers.0.self_attn.q_proj") -> np.ndarray:
    tensors = load_file(folder / "adapter_model.safetensors")
    stem = f"base_model.model.{module}.lora_"
    config = json.loads((folder / "adapter_config.json").read_text())
    scaling = config["lora_alpha"] / config["r"]
    return np.asarray(scaling * tensors[f"{stem}B.weight"] @ tensors[f"{stem}A.weight"])


def test_folders_become_a_folder(loradex: Loradex, tmp_path: Path) -> None:
    one, two = (save_adapter(tmp_path / name, seed=seed) for seed, name in enumerate(("one", "two")))
    made = loradex("adapter", "merge", "./one=0.7", f"{two}=-0.5", "--out", "both", "--json").json
    assert (made["rank"], made["modules"], made["path"], made["notes"]) == (8, 4, "both", [])
    expected = 0.7 * product(one) - 0.5 * product(two)
    np.testing.assert_allclose(product(tmp_path / "both"), expected, rtol=0, atol=1e-5)
    assert loradex("adapter", "merge", "./one", "./two", "--out", "more", "-q").out == "more\n"
    ran = loradex("adapter", "merge", "./one", "./two", "--method", "svd", "--rank", 3, "--out", "cut")
    assert "rank 3" in " ".join(ran.out.split())


def test_names_are_those_of_the_registry_and_the_result_may_be_one(
    loradex: Loradex, base: Path, tmp_path: Path
) -> None:
    home = ("--home", tmp_path / "home")
    for seed, name in enumerate(("medical", "legal")):
        save_adapter(tmp_path / name, seed=seed, base=str(base))
        assert loradex("adapter", "add", name, tmp_path / name, *home).code == 0
    recipe = ("medical@1=0.7", "legal=0.3", "--method", "ties", "--density", 0.5)
    made = loradex("adapter", "merge", *recipe, "--as", "both", "--json", *home)
    assert made.json["name"] == "both"
    assert (made.json["version"], made.json["rank"]) == (1, 4)
    assert loradex("adapter", "merge", *recipe, "--out", "there", *home).code == 0
    shown = loradex("adapter", "show", "both", "--json", *home).json["versions"][0]
    again = loradex("adapter", "add", "both", "there", "--json", *home).json
    assert shown["digest"] == again["digest"]
    ran = loradex("adapter", "merge", "medical=0.7", "lgal=0.3", "--out", "x", *home)
    assert (ran.code, "legal" in ran.err) == (3, True)


def test_a_server_serves_what_is_merged(loradex: Loradex, deck: Deck) -> None:
    ran = loradex("adapter", "merge", deck.folder / "medical", f"{deck.folder / 'medical2'}=0.5", "--as", "both", "-q")
    assert ran.out == "both@1\n"
    assert loradex("run", "both", "hello").code == 0
    ran = loradex("adapter", "merge", deck.folder / "medical", deck.folder / "broken", "--as", "worse")
    assert (ran.code, "not finite" in ran.err) == (1, True)
    assert loradex("adapter", "ls", "-q").out == "both\n"


@pytest.mark.parametrize(
    ("argv", "code", "says"),
    [
        (["./one", "./two"], 2, "either --out or --as"),
        (["./one", "./two", "--out", "x", "--as", "y"], 2, "either --out or --as"),
        (["./one=much", "./two", "--out", "x"], 2, "ADAPTER=WEIGHT"),
        (["./one=nan", "./two", "--out", "x"], 2, "ADAPTER=WEIGHT"),
        (["./one", "--out", "x"], 2, "two adapters or more"),
        (["./one", "./two", "--out", "one"], 1, "exists already"),
        (["./one", "./three", "--out", "x"], 3, "three"),
        (["./one", "./two", "--method", "ties", "--out", "x"], 2, "--density 0.5"),
        (["./one", "./two", "--method", "soup", "--out", "x"], 2, "ties"),
        (["./one", "./two", "--as", "no/good"], 2, "no/good"),
    ],
)
def test_exit_codes(loradex: Loradex, tmp_path: Path, argv: list[str], code: int, says: str) -> None:
    for seed, name in enumerate(("one", "two")):
        save_adapter(tmp_path / name, seed=seed)
    ran = loradex("adapter", "merge", *argv, "--home", tmp_path / "home")
    assert (ran.code, ran.out) == (code, "")
    assert says in ran.err
    assert not (tmp_path / "x").exists()
