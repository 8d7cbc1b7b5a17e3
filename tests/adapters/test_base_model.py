from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loradex.adapters.base_model import model_digest, read_model_info
from loradex.core.model import LinearShape
from loradex.errors import ConfigInvalid
from tests.adapters.making import safetensors

WEIGHTS = {
    "model.embed_tokens.weight": (40, 8),
    "model.layers.0.self_attn.q_proj.weight": (16, 8),
    "model.layers.0.self_attn.q_proj.bias": (16,),
    "model.layers.0.input_layernorm.weight": (8,),
    "model.layers.0.mlp.gate.weight": (4, 8),
    "model.layers.0.mlp.experts.0.up_proj.weight": (12, 8),
    "model.layers.0.mlp.gate_proj.weight": (12, 8),
    "lm_head.weight": (40, 8),
}
LINEARS = {
    "model.layers.0.mlp.gate_proj": LinearShape(8, 12),
    "model.layers.0.self_attn.q_proj": LinearShape(8, 16),
}


def content(names: list[str] | None = None) -> bytes:
    return safetensors({name: np.zeros(WEIGHTS[name], np.float32) for name in names or WEIGHTS})


def write(folder: Path, weights: bytes | None = None, **config: Any) -> Path:
    folder.mkdir(exist_ok=True)
    facts = {"architectures": ["XForCausalLM"], "model_type": "x", "vocab_size": 40, "max_position_embeddings": 99}
    (folder / "config.json").write_text(json.dumps(facts | config))
    if weights is not None:
        (folder / "model.safetensors").write_bytes(weights)
    return folder


def test_linears_are_matrices_that_are_no_embedding_head_router_or_expert(tmp_path: Path) -> None:
    info = read_model_info(write(tmp_path / "base", content(), dtype="bfloat16"), "served")
    assert dict(info.linears) == LINEARS
    assert info.digest == model_digest("XForCausalLM", LINEARS)
    assert (info.id, info.path, info.dtype, info.max_model_len) == ("served", str(tmp_path / "base"), "bfloat16", 99)


@pytest.mark.parametrize(
    ("config", "head_dim"),
    [
        ({"head_dim": 16, "hidden_size": 32, "num_attention_heads": 4}, 16),
        ({"head_dim": None, "hidden_size": 32, "num_attention_heads": 4}, 8),
        ({"text_config": {"n_embd": 24, "n_head": 2}}, 12),
        ({"hidden_size": 32, "num_attention_heads": 0}, 0),
        ({}, 0),
    ],
)
def test_the_size_of_a_head_is_read_or_computed(tmp_path: Path, config: dict[str, Any], head_dim: int) -> None:
    assert read_model_info(write(tmp_path / "base", content(), **config)).head_dim == head_dim


def test_shards_are_read_through_their_index(tmp_path: Path) -> None:
    folder = write(tmp_path / "base")
    names = list(WEIGHTS)
    for shard, part in (("a.safetensors", names[:2]), ("b.safetensors", names[2:])):
        (folder / shard).write_bytes(content(part))
    table = {name: "a.safetensors" if name in names[:2] else "b.safetensors" for name in names}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": table}))
    assert dict(read_model_info(folder).linears) == LINEARS
    (folder / "b.safetensors").unlink()
    with pytest.raises(ConfigInvalid, match=r"b\.safetensors"):
        read_model_info(folder)


def test_a_checkpoint_of_the_bare_model_gets_the_name_that_holds_it(tmp_path: Path) -> None:
    tensors = {"h.0.attn.c_attn.weight": np.zeros((8, 24), np.float32), "wte.weight": np.zeros((40, 8), np.float32)}
    info = read_model_info(write(tmp_path / "base", safetensors(tensors), model_type="gpt2"))
    assert dict(info.linears) == {"transformer.h.0.attn.c_attn": LinearShape(8, 24)}


def test_the_digest_is_of_architecture_and_linears_in_any_order() -> None:
    backwards = dict(reversed(LINEARS.items()))
    assert model_digest("X", LINEARS) == model_digest("X", backwards)
    assert model_digest("X", LINEARS) != model_digest("Y", LINEARS)
    assert model_digest("X", LINEARS) != model_digest("X", {**LINEARS, "a": LinearShape(1, 1)})


def test_a_chat_template_is_seen_in_both_places(tmp_path: Path) -> None:
    folder = write(tmp_path / "base", content())
    assert not read_model_info(folder).has_chat_template
    (folder / "tokenizer_config.json").write_text('{"chat_template": "x"}')
    assert read_model_info(folder).has_chat_template
    (folder / "tokenizer_config.json").write_text("{}")
    (folder / "chat_template.jinja").write_text("x")
    assert read_model_info(folder).has_chat_template


def test_sizes_may_lie_in_the_text_part(tmp_path: Path) -> None:
    part = {"vocab_size": 7, "max_position_embeddings": 5, "dtype": "float16"}
    info = read_model_info(write(tmp_path / "base", content(), text_config=part))
    assert (info.vocab_size, info.max_model_len, info.dtype) == (7, 5, "float16")


@pytest.mark.parametrize(
    ("files", "what"),
    [
        ({}, "no model at that path"),
        ({"config.json": "{"}, "is not JSON"),
        ({"config.json": "[]"}, "no JSON object"),
        ({"config.json": "{}"}, r"no model\.safetensors"),
        ({"config.json": "{}", "model.safetensors": "PK"}, "zip archive"),
        ({"config.json": "{}", "model.safetensors.index.json": '{"weight_map": {"a": "../b"}}'}, "names no weight"),
    ],
)
def test_what_is_no_model_is_named(tmp_path: Path, files: dict[str, str], what: str) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(ConfigInvalid, match=what) as error:
        read_model_info(tmp_path)
    assert error.value.hint


def test_packed_weights_are_refused(tmp_path: Path) -> None:
    from tests.adapters.making import raw_file

    entry = {"dtype": "U8", "shape": [2, 2], "data_offsets": [0, 4]}
    with pytest.raises(ConfigInvalid, match="packed"):
        read_model_info(write(tmp_path / "base", raw_file({"model.a.q_proj.weight": entry}, bytes(4))))


def test_a_model_without_linears_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid, match="no linears"):
        read_model_info(write(tmp_path / "base", content(["lm_head.weight"])))
