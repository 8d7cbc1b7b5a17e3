from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loradex.adapters.check import CheckReport, check, check_folder
from loradex.adapters.read import read_adapter
from loradex.core.model import ModelInfo
from loradex.errors import AdapterInvalid, FilesNotFound
from tests.adapters.making import BASE, make_adapter, make_base, make_tensors


def report(folder: Path, base: ModelInfo = BASE, max_rank: int = 16, **options: Any) -> CheckReport:
    found = check_folder(folder, base, max_rank, **options)
    assert all(problem.fix for problem in found.problems + found.warnings)
    return found


def codes(found: CheckReport) -> list[str]:
    return [problem.code for problem in found.problems]


def test_a_good_adapter_is_reported_whole(tmp_path: Path) -> None:
    folder = make_adapter(tmp_path / "a")
    found = report(folder)
    assert found.ok
    assert not found.warnings
    assert (found.rank, found.modules, found.parameters) == (4, ("q_proj", "v_proj"), 512)
    assert found.base_model == "some/tiny"
    assert found.digest == read_adapter(folder).digest
    found.raise_if_bad("a")
    assert found == check(read_adapter(folder), BASE, 16)


def test_a_rank_above_the_limit_is_refused_in_vllms_words(tmp_path: Path) -> None:
    found = report(make_adapter(tmp_path / "a", make_tensors(64), r=64))
    assert codes(found) == ["rank_too_large"]
    with pytest.raises(AdapterInvalid, match=r"LoRA rank 64 is greater than max_lora_rank 16\.") as error:
        found.raise_if_bad("a")
    assert error.value.problems == found.problems
    assert "--max-lora-rank 64" in found.problems[0].fix


def test_an_adapter_that_touches_nothing_shows_both_sides_names(tmp_path: Path) -> None:
    tensors = {name.replace("model.layers", "model.speech_model.layers"): t for name, t in make_tensors().items()}
    (problem,) = report(make_adapter(tmp_path / "a", tensors)).problems
    assert problem.code == "no_match"
    assert problem.what == (
        "None of its 4 modules is in the base model `tiny`: "
        "the adapter has `model.speech_model.layers.0.self_attn.q_proj`, "
        "`model.speech_model.layers.0.self_attn.v_proj`, "
        "the base has `model.layers.0.self_attn.q_proj`, `model.layers.0.self_attn.v_proj`"
    )


def test_an_empty_adapter_is_refused(tmp_path: Path) -> None:
    found = report(make_adapter(tmp_path / "a", {}))
    assert codes(found) == ["no_match"]
    assert "no low-rank pair" in found.problems[0].what


def test_an_adapter_without_pairs_says_why_and_not_more(tmp_path: Path) -> None:
    tensors = {"base_model.model.lm_head.lora_diag": np.zeros((2, 2), np.float32)}
    assert codes(report(make_adapter(tmp_path / "a", tensors))) == ["unsupported_tensors"]


def test_other_shapes_are_one_problem_a_kind_and_name_both(tmp_path: Path) -> None:
    other = make_base(hidden=24)
    found = report(make_adapter(tmp_path / "a", make_tensors(base=other, kinds=("q_proj", "v_proj", "up_proj"))))
    assert codes(found) == ["shape_mismatch"] * 3
    what = "`up_proj` has 24 inputs and 32 outputs; in the base model `tiny` it has 16 and 32"
    assert found.problems[0].what.startswith(what)
    assert "belongs to another base (2 modules, such as `model.layers.0." in found.problems[0].what
    assert "`some/tiny`" in found.problems[0].fix


def test_layers_that_the_base_lacks_are_grouped(tmp_path: Path) -> None:
    found = report(make_adapter(tmp_path / "a", make_tensors(base=make_base(layers=9))))
    assert codes(found) == ["unknown_modules"]
    assert found.problems[0].what.startswith("14 adapted modules are not in the base model `tiny`: `model.layers.2")
    assert found.problems[0].what.endswith(" and 9 more")


def pair(module: str, inputs: int, outputs: int, *, embedding: bool = False) -> dict[str, np.ndarray]:
    kind, end = ("lora_embedding_", "") if embedding else ("lora_", ".weight")
    stem = f"base_model.model.{module}.{kind}"
    return {
        f"{stem}A{end}": np.ones((4, inputs), np.float32),
        f"{stem}B{end}": np.ones((outputs, 4), np.float32),
    }


def test_embedding_and_output_head_may_have_a_pair(tmp_path: Path) -> None:
    tensors = pair("lm_head", 16, 256) | pair("model.embed_tokens", 256, 16, embedding=True)
    found = report(make_adapter(tmp_path / "a", make_tensors() | tensors))
    assert found.ok
    assert found.modules == ("embed_tokens", "lm_head", "q_proj", "v_proj")


def test_a_pair_of_the_other_kind_is_not_for_this_module(tmp_path: Path) -> None:
    tensors = pair("lm_head", 16, 256, embedding=True) | pair("model.embed_tokens", 256, 16)
    (problem,) = report(make_adapter(tmp_path / "a", make_tensors() | tensors)).problems
    assert problem.code == "unknown_modules"
    assert "`lm_head`, `model.embed_tokens`" in problem.what


Q = "base_model.model.model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    ("options", "name", "shape", "code", "what"),
    [
        ({}, "base_model.model.lm_head.weight", (256, 16), None, ""),
        ({"modules_to_save": ["norm"]}, "base_model.model.model.norm.weight", (16,), None, ""),
        ({"bias": "all"}, f"{Q}.bias", (16,), None, ""),
        ({"bias": "all"}, f"{Q}.base_layer.bias", (16,), None, ""),
        ({"bias": "all"}, f"{Q.replace('.0.', '.1.')}.bias", (16,), "unknown_modules", "1 tensors are for parameters"),
        ({}, "base_model.model.lm_head.weight", (260, 16), "vocabulary", "not the weights of `model.embed_t"),
        ({}, "base_model.model.lm_head.weight", (256, 17), "shape_mismatch", "is [256, 17]; in the base model `tiny`"),
        ({}, "base_model.model.score.weight", (2, 16), "task_head", "`score` is the head of another task"),
        ({"modules_to_save": ["score"]}, "base_model.model.score.weight", (2, 16), "task_head", "`score` is the head"),
    ],
)
def test_what_lies_beside_the_pairs_must_fit(
    tmp_path: Path, options: dict[str, Any], name: str, shape: tuple[int, ...], code: str | None, what: str
) -> None:
    folder = make_adapter(tmp_path / "a", make_tensors() | {name: np.ones(shape, np.float32)}, **options)
    problems = report(folder).problems
    assert [problem.code for problem in problems] == ([] if code is None else [code])
    assert all(what in problem.what for problem in problems)


def test_tokens_beyond_the_vocabulary_are_refused(tmp_path: Path) -> None:
    name = "base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta"
    for tokens, expected in (([1, 255], []), ([256, 3], ["vocabulary"])):
        folder = make_adapter(
            tmp_path / str(tokens),
            make_tensors() | {name: np.ones((2, 16), np.float32)},
            trainable_token_indices=tokens,
        )
        assert codes(report(folder)) == expected
    (problem,) = report(make_adapter(tmp_path / "activated", alora_invocation_tokens=[5, 300])).problems
    assert problem.what.endswith("it uses tokens `300`, and there are 256 token ids")


def test_a_pair_on_a_resized_vocabulary_says_so(tmp_path: Path) -> None:
    tensors = make_tensors() | pair("lm_head", 16, 260)
    (problem,) = report(make_adapter(tmp_path / "a", tensors)).problems
    assert problem.code == "vocabulary"
    assert "save_embedding_layers=True" in problem.fix


def test_more_tokens_than_the_base_has_need_embedding_and_head(tmp_path: Path) -> None:
    ends = {
        f"base_model.model.{name}.weight": np.ones((260, 16), np.float32) for name in ("model.embed_tokens", "lm_head")
    }
    embedding, head = ends
    for number, (tensors, base, missing) in enumerate(
        (
            (ends, BASE, ""),
            ({embedding: ends[embedding]}, BASE, "not the weights of `lm_head`"),
            ({embedding: ends[embedding]}, replace(BASE, tied=True), ""),
            ({embedding: ends[embedding], head: np.ones((259, 16), np.float32)}, BASE, "is [259, 16]"),
            (ends, replace(BASE, parameters={**BASE.parameters, "lm_head.bias": (256,)}), "has a bias for 256"),
        )
    ):
        folder = make_adapter(tmp_path / str(number), make_tensors() | tensors, trainable_token_indices=None)
        problems = check_folder(folder, base, 16).problems
        assert [problem.code for problem in problems] == (["vocabulary"] if missing else [])
        assert all(missing in problem.what for problem in problems)


def test_added_tokens_must_have_rows(tmp_path: Path) -> None:
    name = "base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta"
    folder = make_adapter(
        tmp_path / "a", make_tensors() | {name: np.ones((1, 16), np.float32)}, trainable_token_indices=[255]
    )
    for number, expected in ((255, []), (256, ["vocabulary"])):
        (folder / "tokenizer.json").write_text(json.dumps({"added_tokens": [{"id": number, "content": "<tool>"}]}))
        assert codes(report(folder)) == expected
    (folder / "tokenizer.json").write_text("{")
    assert codes(report(folder)) == ["bad_tokenizer"]


def test_a_saved_module_without_tensors_is_missed_where_the_base_has_it(tmp_path: Path) -> None:
    found = report(make_adapter(tmp_path / "a", modules_to_save=["lm_head", "wte"]))
    assert codes(found) == ["missing_tensors"]
    assert "`modules_to_save` names `lm_head`," in found.problems[0].what


def test_values_beside_the_pairs_are_looked_at(tmp_path: Path) -> None:
    tensors = make_tensors() | {"base_model.model.model.norm.weight": np.full(16, np.nan, np.float32)}
    assert codes(report(make_adapter(tmp_path / "a", tensors))) == ["not_finite"]


def test_weights_that_are_not_numbers_are_refused(tmp_path: Path) -> None:
    tensors = make_tensors()
    first = next(iter(tensors))
    tensors[first][1, 2] = np.nan
    tensors[first][0, 0] = np.inf
    found = report(make_adapter(tmp_path / "a", tensors))
    assert codes(found) == ["not_finite"]
    assert found.problems[0].what == f"2 weights are NaN or infinite, in 1 tensors: `{first}`"


@pytest.mark.parametrize("name", ["x/TINY", "tiny", "/models/tiny/", "C:\\models\\Tiny", "", None])
def test_the_same_base_under_another_path_is_no_news(tmp_path: Path, name: str | None) -> None:
    found = report(make_adapter(tmp_path / "a", base_model_name_or_path=name))
    assert found.ok
    assert not found.warnings


def test_another_base_of_the_same_shape_is_a_warning_or_a_problem(tmp_path: Path) -> None:
    folder = make_adapter(tmp_path / "a", base_model_name_or_path="org/other")
    found = report(folder)
    assert found.ok
    assert [problem.code for problem in found.warnings] == ["other_base"]
    assert "`org/other`; the base model is `tiny`" in found.warnings[0].what
    strict = report(folder, strict_base=True)
    assert codes(strict) == ["other_base"]
    assert not strict.warnings


def test_everything_wrong_is_listed_at_once(tmp_path: Path) -> None:
    tensors = make_tensors(32, base=make_base(hidden=24))
    next(iter(tensors.values()))[0, 0] = np.nan
    found = report(make_adapter(tmp_path / "a", tensors, r=32, use_qalora=True, base_model_name_or_path="org/other"))
    assert codes(found) == ["unsupported_option", "rank_too_large", *["shape_mismatch"] * 2, "not_finite"]


def test_weights_that_cannot_be_read_are_the_only_problem(tmp_path: Path) -> None:
    found = report(make_adapter(tmp_path / "a", b"PK\x03\x04" + bytes(100)))
    assert codes(found) == ["pickle"]
    assert (found.rank, found.modules, found.digest) == (0, (), "")


def test_files_that_go_between_reading_and_checking_are_missed(tmp_path: Path) -> None:
    folder = make_adapter(tmp_path / "a")
    adapter = read_adapter(folder)
    make_adapter(folder, make_tensors(kinds=("k_proj",)))
    with pytest.raises(AdapterInvalid, match="changed while"):
        check(adapter, BASE, 16)
    adapter.weights.unlink()
    with pytest.raises(FilesNotFound):
        check(adapter, BASE, 16)
