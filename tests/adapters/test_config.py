from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loradex.adapters.config import LoraConfig, parse_config
from loradex.adapters.files import MAX_CONFIG_BYTES
from loradex.errors import AdapterInvalid, FilesNotFound
from tests.adapters.making import make_config

Q, UP = "model.layers.1.self_attn.q_proj", "model.layers.0.mlp.up_proj"


def parse(**changes: Any) -> LoraConfig:
    config, problems = parse_config(json.dumps(make_config(**changes)).encode())
    assert not problems
    assert config is not None
    return config


def problems(content: bytes | None = None, **changes: Any) -> list[str]:
    _, found = parse_config(json.dumps(make_config(**changes)).encode() if content is None else content)
    assert all(problem.fix for problem in found)
    return [problem.what for problem in found]


def test_rank_and_scaling_come_from_the_whole_file() -> None:
    config = parse(r=8, lora_alpha=16)
    assert (config.rank(Q), config.scaling(Q)) == (8, 2.0)
    assert parse(r=4, lora_alpha=16, use_rslora=True).scaling(Q) == 16 / math.sqrt(4)


def test_patterns_match_as_in_peft() -> None:
    config = parse(r=4, lora_alpha=8, rank_pattern={"q_proj": 16, "layers.1": 2}, alpha_pattern={"mlp.up_proj": 3})
    assert config.rank(Q) == 16
    assert config.rank("model.layers.1") == 2
    assert config.rank("model.layers.0.self_attn.my_q_proj") == 4  # only after a dot
    assert config.scaling(Q) == 8 / 16
    assert config.scaling(UP) == 3 / 4


def test_rslora_takes_the_rank_of_the_module() -> None:
    assert parse(r=4, lora_alpha=8, use_rslora=True, rank_pattern={"q_proj": 16}).scaling(Q) == 2.0


@pytest.mark.parametrize(
    "changes",
    [
        {"layer_replication": [[0, 2], [1, 2]]},
        {"use_qalora": True},
        {"use_bdlora": {"x": 1}},
        {"arrow_config": {"top_k": 1}},
        {"kasa_config": {"beta": 1}},
        {"velora_config": {"x": 1}},
        {"monteclora_config": {"x": 1}},
    ],
)
def test_what_would_change_the_answer_is_refused_by_name(changes: dict[str, Any]) -> None:
    (what,) = problems(**changes)
    assert f"`{next(iter(changes))}` is set" in what


def test_what_peft_itself_does_not_compute_is_refused() -> None:
    assert problems(use_dora=True, lora_bias=True) == [
        "`use_dora` and `lora_bias` are both set, which PEFT itself does not compute"
    ]


@pytest.mark.parametrize("init", ["pissa", "pissa_niter_16", "olora", "OLoRA", "corda", "loftq", "lora_ga", "new", 3])
def test_training_on_a_changed_base_is_refused(init: object) -> None:
    (what,) = problems(init_lora_weights=init)
    assert f"`init_lora_weights` is {init if isinstance(init, str) else str(init)!r}".split()[0] in what
    assert str(init) in what


def test_only_experts_may_have_pairs_on_parameters() -> None:
    parse(target_parameters=["mlp.experts.gate_up_proj", "down_proj"])
    (what,) = problems(target_parameters=["experts.down_proj", "experts.gate_up_proj_bias", "q_proj.weight"])
    assert what == (
        "`target_parameters` names `experts.gate_up_proj_bias`, `q_proj.weight`; served are the gate_up_proj and "
        "down_proj of experts"
    )


@pytest.mark.parametrize("init", [True, False, None, "gaussian", "eva", "orthogonal", "mica"])
def test_training_on_the_base_as_it_is_passes(init: object) -> None:
    parse(init_lora_weights=init)


def test_unknown_options_are_refused_only_when_they_are_set() -> None:
    parse(a=None, b=False, c={}, d=[], e=0, f="")
    (what,) = problems(use_magic=True, **{f"option{n}": n for n in range(1, 9)})
    assert "`option1`, `option2`, `option3`, `option4`, `option5` and 4 more" in what


@pytest.mark.parametrize("kind", ["IA3", "LOHA", "ADALORA", "PREFIX_TUNING", "lora", 3])
def test_other_methods_are_refused_by_name(kind: object) -> None:
    (what,) = problems(peft_type=kind)
    assert what == f"`peft_type` is {kind!r}; only LORA is served"


def test_a_missing_method_is_said() -> None:
    assert problems(peft_type=None) == ["`peft_type` is missing"]


@pytest.mark.parametrize(
    "changes",
    [
        {"r": 0},
        {"r": -1},
        {"r": "8"},
        {"r": True},
        {"r": 2.5},
        {"r": None},
        {"lora_alpha": "x"},
        {"lora_alpha": None},
        {"lora_alpha": 1e300},
        {"use_rslora": "yes"},
        {"rank_pattern": {"q_proj": 0}},
        {"rank_pattern": {"q_proj": 1.5}},
        {"rank_pattern": ["q_proj"]},
        {"rank_pattern": {"(": 2}},
        {"rank_pattern": {"(a+)+b": 2}},
        {"rank_pattern": {"a?" * 40 + "a" * 40: 2}},
        {"rank_pattern": {"x" * 1000: 2}},
        {"alpha_pattern": {"q_proj": "2"}},
        {"alpha_pattern": 3},
        {"target_modules": 3},
        {"target_modules": [1]},
        {"bias": "some"},
        {"base_model_name_or_path": ["x"]},
        {"base_model_name_or_path": "x\x1b[31m"},
        {"layers_to_transform": "all"},
        {"use_dora": "yes"},
        {"lora_bias": 1},
        {"modules_to_save": {"lm_head": 1}},
        {"target_parameters": "experts.down_proj"},
        {"target_parameters": [3]},
        {"alora_invocation_tokens": "<run>"},
        {"alora_invocation_tokens": [[1]]},
        {"trainable_token_indices": [-1]},
        {"trainable_token_indices": {"embed_tokens": 3}},
    ],
)
def test_wrong_values_are_named(changes: dict[str, Any]) -> None:
    (what,) = problems(**changes)
    assert f"`{next(iter(changes))}`" in what


def test_every_problem_is_listed() -> None:
    found = problems(r=0, use_qalora=True, init_lora_weights="pissa", lora_alpha="x", use_magic=1)
    assert len(found) == 5


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b'{"r": 1,\n "x"}', "in line 2, column 5"),
        (b"", "in line 1"),
        (b"[]", "holds a list"),
        (b"\xff\xfe", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b'{"r": NaN}', "not JSON"),
        (b'{"lora_dropout": 1e999, "peft_type": "LORA"}', "not JSON"),
        (b'{"x": "\\ud800"}', "not JSON"),
        (b" " * (MAX_CONFIG_BYTES + 1), "larger than 1 MB"),
    ],
)
def test_what_is_not_a_json_object_is_refused(content: bytes, what: str) -> None:
    (found,) = problems(content)
    assert what in found


def test_read_raises_all_of_it(tmp_path: Path) -> None:
    path = tmp_path / "adapter_config.json"
    with pytest.raises(FilesNotFound):
        LoraConfig.read(path)
    path.write_text(json.dumps(make_config(r=0, use_qalora=True)))
    with pytest.raises(AdapterInvalid) as error:
        LoraConfig.read(path)
    assert len(error.value.problems) == 2
    path.write_text(json.dumps(make_config()), encoding="utf-8-sig")
    assert LoraConfig.read(path).target_modules == ("q_proj", "v_proj")


@settings(max_examples=100, deadline=None)
@given(
    st.dictionaries(st.sampled_from(sorted(make_config())) | st.text(max_size=8), st.none() | st.integers() | st.text())
)
def test_any_object_gives_a_configuration_or_problems(changes: dict[str, Any]) -> None:
    config, found = parse_config(json.dumps(make_config() | changes).encode())
    assert config is not None or found
