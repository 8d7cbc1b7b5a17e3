from __future__ import annotations

import hashlib
import re
from pathlib import Path

import numpy as np
import pytest

from loradex.adapters import read
from loradex.adapters.digest import digest
from loradex.adapters.files import find_files
from loradex.adapters.read import examine, read_adapter
from loradex.errors import AdapterInvalid, FilesNotFound
from tests.adapters.making import make_adapter, make_tensors

Q = "base_model.model.model.layers.0.self_attn.q_proj.lora_"


def problems(folder: Path) -> dict[str, str]:
    with pytest.raises(AdapterInvalid) as error:
        read_adapter(folder)
    found = {problem.code: problem.what for problem in error.value.problems}
    assert len(found) == len(error.value.problems)
    assert all(problem.fix for problem in error.value.problems)
    return found


def test_every_pair_is_read(tmp_path: Path) -> None:
    adapter = read_adapter(make_adapter(tmp_path / "a"))
    assert sorted(adapter.layers) == [
        f"model.layers.{n}.self_attn.{kind}_proj" for n in range(2) for kind in ("q", "v")
    ]
    layer = adapter.layers["model.layers.0.self_attn.q_proj"]
    assert (layer.rank, layer.scaling, layer.in_features, layer.out_features) == (4, 2.0, 16, 16)
    assert (layer.a, layer.b) == (f"{Q}A.weight", f"{Q}B.weight")
    assert (adapter.rank, adapter.parameters, adapter.base_model) == (4, 4 * 4 * 32, "some/tiny")
    assert adapter.bytes == adapter.weights.stat().st_size


def test_the_digest_is_over_both_files(tmp_path: Path) -> None:
    folder = make_adapter(tmp_path / "a")
    config, weights = (folder / "adapter_config.json").read_bytes(), (folder / "adapter_model.safetensors").read_bytes()
    wanted = hashlib.sha256(b"loradex adapter 1\n" + len(config).to_bytes(8, "little") + config + weights).hexdigest()
    assert read_adapter(folder).digest == digest(folder) == wanted
    assert digest(make_adapter(tmp_path / "b", r=4, lora_alpha=9)) != wanted
    assert digest(make_adapter(tmp_path / "c", make_tensors(seed=1))) != wanted
    with pytest.raises(FilesNotFound):
        digest(tmp_path)


def test_names_without_prefix_and_with_the_adapters_name_are_read(tmp_path: Path) -> None:
    tensors = make_tensors()
    plain = read_adapter(make_adapter(tmp_path / "a", tensors))
    bare = {name.removeprefix("base_model.model."): tensor for name, tensor in tensors.items()}
    infix = {name.replace(".weight", ".default.weight"): tensor for name, tensor in tensors.items()}
    for folder, named in (("b", bare), ("c", infix)):
        adapter = read_adapter(make_adapter(tmp_path / folder, named))
        assert list(adapter.layers) == list(plain.layers)
        assert {layer.a for layer in adapter.layers.values()} <= set(named)


def test_an_adapter_in_a_sub_folder_of_its_name_is_found(tmp_path: Path) -> None:
    make_adapter(tmp_path / "out" / "medical")
    (tmp_path / "out" / "README.md").write_text("x")
    assert read_adapter(tmp_path / "out").path == tmp_path / "out" / "medical"
    make_adapter(tmp_path / "out" / "legal")
    with pytest.raises(FilesNotFound, match="2 adapters: legal, medical"):
        read_adapter(tmp_path / "out")


@pytest.mark.parametrize(
    ("files", "what"),
    [
        ({}, "adapter_config.json is missing"),
        ({"adapter_config.json": "{}"}, "adapter_model.safetensors is missing"),
        ({"adapter_model.safetensors": ""}, "adapter_config.json is missing"),
        ({"config.json": "{}", "model.safetensors": ""}, "adapter_config.json is missing"),
    ],
)
def test_missing_files_are_named(tmp_path: Path, files: dict[str, str], what: str) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(FilesNotFound, match=what) as error:
        read_adapter(tmp_path)
    assert error.value.hint
    assert ("whole model" in error.value.hint) == ("config.json" in files)


@pytest.mark.parametrize(
    ("file", "hint"), [("context/model.yaml", "NeMo 2.*hf-peft"), ("run_config.yaml", "Megatron-Bridge.*PEFT")]
)
def test_checkpoints_of_other_trainers_are_known_and_say_the_way_here(tmp_path: Path, file: str, hint: str) -> None:
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text("x: 1")
    with pytest.raises(FilesNotFound) as error:
        read_adapter(tmp_path)
    assert re.search(hint, error.value.hint)


@pytest.mark.parametrize("path", ["gone", "file.txt", "x" * 5000, "null\0byte"])
def test_paths_that_are_no_folder_are_named(tmp_path: Path, path: str) -> None:
    (tmp_path / "file.txt").write_text("x")
    with pytest.raises(FilesNotFound):
        read_adapter(tmp_path / path)


def test_a_rank_that_disagrees_with_the_configuration_is_refused(tmp_path: Path) -> None:
    found = problems(make_adapter(tmp_path / "a", r=8, rank_pattern={"v_proj": 4}))
    assert found == {
        "rank_mismatch": "Rank is 4 where adapter_config.json says 8, at "
        "`model.layers.0.self_attn.q_proj`, `model.layers.1.self_attn.q_proj`"
    }


def test_ranks_may_differ_by_module(tmp_path: Path) -> None:
    tensors = make_tensors(2, kinds=("q_proj",)) | make_tensors(6, kinds=("v_proj",))
    adapter = read_adapter(
        make_adapter(tmp_path / "a", tensors, r=2, rank_pattern={"v_proj": 6}, alpha_pattern={"v_proj": 3})
    )
    assert adapter.rank == 6
    assert {layer.scaling for layer in adapter.layers.values()} == {4.0, 0.5}


def test_half_a_pair_is_refused(tmp_path: Path) -> None:
    tensors = make_tensors()
    del tensors[f"{Q}A.weight"], tensors[f"{Q.replace('q_', 'v_')}B.weight"]
    with pytest.raises(AdapterInvalid) as error:
        read_adapter(make_adapter(tmp_path / "a", tensors))
    assert [problem.what for problem in error.value.problems] == [
        "lora_B is missing beside lora_A of `model.layers.0.self_attn.v_proj`",
        "lora_A is missing beside lora_B of `model.layers.0.self_attn.q_proj`",
    ]


@pytest.mark.parametrize("shape", [(16, 4), (4, 16, 1), (0, 16)])
def test_pairs_that_do_not_fit_together_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    tensors = make_tensors() | {f"{Q}A.weight": np.zeros(shape, np.float32)}
    found = problems(make_adapter(tmp_path / "a", tensors))
    assert found["bad_pair"].startswith(f"Pairs do not fit together: A {list(shape)} and B [16, 4] at `model.layers.0")


M = "base_model.model.model.layers.0.self_attn.q_proj"
EMBEDDING = "base_model.model.model.embed_tokens"


@pytest.mark.parametrize(
    ("extra", "options", "code", "what"),
    [
        ({f"{Q}diag": (4,)}, {}, "unsupported_tensors", f"1 tensors are not known to belong to LoRA: `{Q}diag`"),
        ({f"{Q}magnitude_vector": (16,)}, {}, "unsupported_tensors", "belong to `use_dora`, which adapter_config.json"),
        ({f"{Q}B.bias": (16,)}, {}, "unsupported_tensors", "belong to `lora_bias`, which adapter_config.json"),
        (
            {f"{EMBEDDING}.token_adapter.trainable_tokens_delta": (2, 16)},
            {},
            "unsupported_tensors",
            "belong to `trainable_token_indices`, which adapter_config.json does not set",
        ),
        (
            {},
            {"use_dora": True},
            "missing_tensors",
            "`use_dora` is set, but its tensors are missing for `model.layers.0",
        ),
        ({}, {"lora_bias": True}, "missing_tensors", "`lora_bias` is set, but its tensors are missing for `model.lay"),
        ({}, {"trainable_token_indices": [3]}, "missing_tensors", "`trainable_token_indices` is set, but its tensors"),
        (
            {f"{EMBEDDING}.token_adapter.trainable_tokens_delta": (2, 16)},
            {"trainable_token_indices": [3, 3]},
            "bad_extra",
            "`trainable_token_indices` does not fit its tensor, at `model.embed_tokens: 1 token ids, a tensor [2, 16]`",
        ),
        (
            {f"{EMBEDDING}.token_adapter.trainable_tokens_delta": (1, 16), f"{EMBEDDING}.weight": (256, 16)},
            {"trainable_token_indices": [3]},
            "unsupported_option",
            "Single tokens of `model.embed_tokens` are trained, and the whole of it as well",
        ),
        ({f"{M}.bias": (16,), f"{M}.base_layer.bias": (16,)}, {}, "duplicate", f"Tensors mean the same: `{M}.bias`"),
        (
            {f"{EMBEDDING}.weight": (256, 16)},
            {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
            "unsupported_option",
            "`ensure_weight_tying` is set: what `model.embed_tokens` got may be meant for what is tied to it too",
        ),
    ],
)
def test_what_does_not_go_with_the_configuration_is_refused(
    tmp_path: Path, extra: dict[str, tuple[int, ...]], options: dict[str, object], code: str, what: str
) -> None:
    tensors = make_tensors() | {name: np.zeros(shape, np.float32) for name, shape in extra.items()}
    found = problems(make_adapter(tmp_path / "a", tensors, **options))
    assert list(found) == [code]
    assert what in found[code]


def test_magnitudes_must_fit_the_pair_beside_them(tmp_path: Path) -> None:
    tensors = make_tensors(kinds=("q_proj",)) | {f"{Q}magnitude_vector": np.zeros(15, np.float32)}
    tensors |= {f"{Q}magnitude_vector".replace(".0.", ".1."): np.zeros(16, np.float32)}
    found = problems(make_adapter(tmp_path / "a", tensors, use_dora=True))
    assert found == {"bad_extra": f"1 tensors do not fit the pair beside them: `{Q}magnitude_vector`"}


def test_what_lies_beside_the_pairs_is_told_apart(tmp_path: Path) -> None:
    names = {
        f"{M}.bias": ("model.layers.0.self_attn.q_proj", "bias"),
        "base_model.model.lm_head.weight": ("lm_head", "weight"),
        f"{EMBEDDING}.weight": ("model.embed_tokens", "base_weight"),
        "base_model.model.model.norm.weight": ("model.norm", "base_weight"),
    }
    tensors = make_tensors() | {name: np.zeros((3, 2), np.float32) for name in names}
    adapter = read_adapter(make_adapter(tmp_path / "a", tensors, modules_to_save=["lm_head"]))
    assert {extra.tensor: (extra.module, extra.role) for extra in adapter.extras} == names
    assert adapter.parameters == 4 * 4 * 32 + 4 * 6


def test_a_language_model_within_another_is_read_as_by_itself(tmp_path: Path) -> None:
    tensors = {name.replace("model.layers", "model.language_model.layers"): t for name, t in make_tensors().items()}
    pattern = {"language_model.layers.0.self_attn.q_proj": 8}
    adapter = read_adapter(make_adapter(tmp_path / "a", tensors, alpha_pattern=pattern, lora_alpha=4))
    plain = read_adapter(make_adapter(tmp_path / "b"))
    assert list(adapter.layers) == list(plain.layers)
    assert [layer.scaling for layer in adapter.layers.values()] == [2.0, 1.0, 1.0, 1.0]


def test_bias_without_bias_tensors_passes(tmp_path: Path) -> None:
    read_adapter(make_adapter(tmp_path / "a", bias="all"))


def test_dtypes_that_are_not_served_are_named(tmp_path: Path) -> None:
    tensors = make_tensors() | {f"{Q}A.weight": np.zeros((4, 16), np.uint8)}
    found = problems(make_adapter(tmp_path / "a", tensors))
    assert found["unsupported_dtype"] == f"1 tensors are of dtype F8_E4M3: `{Q}A.weight`"


def test_two_adapters_in_a_file_are_refused(tmp_path: Path) -> None:
    tensors = {
        name.replace(".weight", f".{adapter}.weight"): tensor
        for adapter in ("one", "two")
        for name, tensor in make_tensors().items()
    }
    assert problems(make_adapter(tmp_path / "a", tensors)) == {
        "many_adapters": "The file holds several adapters: `one`, `two`"
    }


def test_two_tensors_of_one_module_are_refused(tmp_path: Path) -> None:
    tensors = make_tensors()
    tensors |= {f"{Q}A.weight".removeprefix("base_model.model."): tensors[f"{Q}A.weight"]}
    assert "duplicate" in problems(make_adapter(tmp_path / "a", tensors))


def test_a_pickle_is_refused_with_the_way_out(tmp_path: Path) -> None:
    folder = make_adapter(tmp_path / "a", use_qalora=True)
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(AdapterInvalid) as error:
        read_adapter(folder)
    assert [problem.code for problem in error.value.problems] == ["unsupported_option", "pickle"]
    assert "--allow-pickle" in error.value.problems[1].fix


def test_a_file_above_the_limit_is_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read, "MAX_WEIGHTS_BYTES", 1 << 10)
    assert "too_large" in problems(make_adapter(tmp_path / "a"))


def test_structure_and_configuration_are_refused_together(tmp_path: Path) -> None:
    tensors = make_tensors()
    del tensors[f"{Q}A.weight"]
    assert set(problems(make_adapter(tmp_path / "a", tensors, use_qalora=True, r=5))) == {
        "unsupported_option",
        "missing_half",
        "rank_mismatch",
    }


def test_what_can_be_read_is_read_in_spite_of_problems(tmp_path: Path) -> None:
    found = examine(find_files(make_adapter(tmp_path / "a", peft_type="IA3")))
    assert found.config is None
    assert len(found.adapter.layers) == 4
