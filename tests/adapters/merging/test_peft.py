"""Every method against PEFT's `add_weighted_adapter`, which computes in float64; DARE with the same values dropped."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from safetensors.numpy import load_file

from loradex.adapters.merging.merge import Member, generator, merge
from loradex.adapters.merging.recipe import METHODS, Method, Recipe
from tests.adapters.formats.oracle import Oracle

pytestmark = pytest.mark.filterwarnings("ignore")

MEMBERS: dict[str, dict[str, Any]] = {
    "one": {"lora_alpha": 6},
    "two": {"use_rslora": True, "target_modules": ["q_proj", "v_proj", "down_proj"]},
    "three": {"alpha_pattern": {"v_proj": 2}, "target_modules": ["q_proj", "v_proj", "up_proj"]},
    "wide": {"r": 6},
}
WEIGHTS = {"one": 0.7, "two": -0.4, "three": 1.5, "wide": 0.25}
EQUAL = ("one", "two", "three")


class Merging:
    """Adapters on disk, and one PEFT model that holds them."""

    def __init__(self, folder: Path) -> None:
        self.base = Oracle(folder, "llama")
        self.folders = {
            name: self.base.save(folder / name, seed=seed, **options)
            for seed, (name, options) in enumerate(MEMBERS.items())
        }
        model = copy.deepcopy(self.base.model)
        self.peft = peft.PeftModel.from_pretrained(model, self.folders["one"], adapter_name="one")
        for name in list(MEMBERS)[1:]:
            self.peft.load_adapter(self.folders[name], adapter_name=name)
        self.peft.double()  # cutting a product off makes much of float32's rounding

    def layers(self, adapter: str) -> dict[str, Any]:
        """PEFT's layers that an adapter adapts, in PEFT's order, by module path."""
        return {
            name.removeprefix("base_model.model."): layer
            for name, layer in self.peft.named_modules()
            if adapter in getattr(layer, "lora_A", ())
        }


@pytest.fixture(scope="module")
def merging(tmp_path_factory: pytest.TempPathFactory) -> Merging:
    return Merging(tmp_path_factory.mktemp("merging"))


def dropped(merging: Merging, recipe: Recipe, names: tuple[str, ...]) -> Iterator[torch.Tensor]:
    """The values that we keep, as PEFT asks for them: module by module, there A's before B's."""
    merging.peft.add_weighted_adapter(list(names), [1.0] * len(names), "order", "cat")
    modules = merging.layers("order")
    merging.peft.delete_adapter("order")
    for module, layer in modules.items():
        random = generator(recipe.seed, module)
        here = [name for name in names if name in layer.lora_A]
        a, b = ([tuple(part[name].weight.shape) for name in here] for part in (layer.lora_A, layer.lora_B))
        whole = [tuple(layer.weight.shape)] * len(here)
        for shape in whole if recipe.by_product else [*a, *b]:
            assert recipe.density is not None
            yield torch.from_numpy(random.random(shape) < recipe.density).float()


def products(folder: Path) -> dict[str, np.ndarray]:
    """What an adapter whose scaling is 1 adds to each module."""
    tensors = load_file(folder / "adapter_model.safetensors")
    stems = {name.removesuffix(".lora_A.weight") for name in tensors if name.endswith(".lora_A.weight")}
    return {
        stem.removeprefix("base_model.model."): tensors[f"{stem}.lora_B.weight"] @ tensors[f"{stem}.lora_A.weight"]
        for stem in stems
    }


WHOLE: tuple[Method, ...] = ("cat", "linear", "svd")
RECIPES = [
    *(Recipe(method, None if method in WHOLE else 0.6) for method in METHODS),
    Recipe("ties", 0.6, "frequency"),
    Recipe("dare_ties", 0.3, "frequency", seed=7),
    Recipe("ties_svd", 0.6, "frequency", rank=3),
    Recipe("svd", rank=2),
    Recipe("ties", 1.0),
]


@pytest.mark.parametrize("recipe", RECIPES, ids=str)
def test_the_numbers_are_those_of_peft(
    merging: Merging, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = EQUAL if recipe.by_factor else tuple(MEMBERS)
    kept = dropped(merging, recipe, names) if recipe.method.startswith("dare") else iter(())
    monkeypatch.setattr(torch, "bernoulli", lambda input: next(kept))
    members = [Member(name, merging.folders[name], WEIGHTS[name]) for name in names]
    done = merge(members, recipe, tmp_path / "merged", merging.base.info)
    ours = products(tmp_path / "merged")
    merging.peft.add_weighted_adapter(
        list(names),
        [WEIGHTS[name] for name in names],
        "merged",
        recipe.method,
        svd_rank=recipe.rank,
        density=recipe.density,
        majority_sign_method=recipe.sign,
    )
    try:
        layers = merging.layers("merged")
        assert ours.keys() == layers.keys()
        assert done.modules == len(layers)
        for module, layer in layers.items():
            theirs = (layer.lora_B["merged"].weight @ layer.lora_A["merged"].weight).detach().numpy()
            np.testing.assert_allclose(ours[module], theirs, rtol=0, atol=1e-5, err_msg=module)
        assert next(kept, None) is None  # PEFT asked for all of them
    finally:
        merging.peft.delete_adapter("merged")


def test_what_is_not_cut_off_answers_as_the_sum(merging: Merging, tmp_path: Path) -> None:
    members = [Member(name, merging.folders[name], WEIGHTS[name]) for name in MEMBERS]
    done = merge(members, Recipe("cat"), tmp_path / "merged", merging.base.info)
    assert done.rank == 4 + 4 + 4 + 6
    merge(members, Recipe("svd", rank=18), tmp_path / "svd", merging.base.info)
    expected = {
        module: sum(
            WEIGHTS[name] * layer.get_delta_weight(name).detach().numpy() for name in MEMBERS if name in layer.lora_A
        )
        for module, layer in merging.layers("wide").items()
    }
    for folder in ("merged", "svd"):
        for module, product in products(tmp_path / folder).items():
            np.testing.assert_allclose(product, expected[module], rtol=0, atol=1e-5)
    logits = [merging.base.logits(tmp_path / folder) for folder in ("merged", "svd")]
    torch.testing.assert_close(logits[0], logits[1], rtol=0, atol=1e-4)
