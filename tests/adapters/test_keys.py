from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loradex.adapters.keys import Key, canonical, kind, parse_extra, parse_key, stacked

Q = "model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    ("name", "key"),
    [
        (f"base_model.model.{Q}.lora_A.weight", Key(Q, "A")),
        (f"base_model.model.{Q}.lora_B.weight", Key(Q, "B")),
        (f"base_model.model.{Q}.lora_A.default.weight", Key(Q, "A", "default")),
        (f"{Q}.lora_B.weight", Key(Q, "B")),
        ("base_model.model.model.embed_tokens.lora_embedding_A", Key("model.embed_tokens", "A", embedding=True)),
        ("base_model.model.wte.lora_embedding_B.default", Key("wte", "B", "default", embedding=True)),
        (f"base_model.model.{Q}.lora_C.weight", None),
        (f"base_model.model.{Q}.lora_A.a.b.weight", None),
        ("lora_A.weight", None),
        (f"{Q}.weight", None),
        ("", None),
    ],
)
def test_names_mean_a_module_and_a_side(name: str, key: Key | None) -> None:
    assert parse_key(name) == key


@pytest.mark.parametrize(
    ("name", "meaning"),
    [
        (f"base_model.model.{Q}.lora_magnitude_vector", (Q, "magnitude")),
        (f"base_model.model.{Q}.lora_magnitude_vector.default.weight", (Q, "magnitude")),
        (f"base_model.model.{Q}.lora_B.bias", (Q, "pair_bias")),
        (f"base_model.model.{Q}.lora_B.default.bias", (Q, "pair_bias")),
        (f"base_model.model.{Q}.lora_A.bias", None),
        (f"base_model.model.{Q}.bias", (Q, "bias")),
        (f"base_model.model.{Q}.base_layer.bias", (Q, "bias")),
        (f"{Q}.weight", (Q, "weight")),
        ("base_model.model.m.token_adapter.trainable_tokens_delta", ("m", "tokens")),
        ("base_model.model.model.embed_tokens.base_layer.weight", ("model.embed_tokens", "base_weight")),
        (f"base_model.model.{Q}.lora_diag", None),
        ("base_model.model.lm_head.modules_to_save.default.weight", None),
        ("base_model.model.lm_head.original_module.weight", None),
        ("base_model.model.m.token_adapter.base_layer.weight", ("m", "base_weight")),
        ("lora_A.weight", None),
        ("something", None),
    ],
)
def test_other_tensors_mean_a_module_and_what_they_do_for_it(name: str, meaning: tuple[str, str] | None) -> None:
    assert parse_key(name) is None
    assert parse_extra(name) == meaning


@pytest.mark.parametrize(
    ("module", "alone"),
    [
        ("model.language_model.layers.0.mlp.up_proj", "model.layers.0.mlp.up_proj"),
        ("language_model.model.layers.0.mlp.up_proj", "model.layers.0.mlp.up_proj"),
        ("model.language_model.embed_tokens", "model.embed_tokens"),
        ("language_model.lm_head", "lm_head"),
        ("model.vision_tower.layers.0.q_proj", "model.vision_tower.layers.0.q_proj"),
        (Q, Q),
        ("lm_head", "lm_head"),
    ],
)
def test_a_language_model_within_another_is_named_as_by_itself(module: str, alone: str) -> None:
    assert canonical(module) == alone == canonical(alone)


def test_wrappers_of_experts_stand_for_their_parameters() -> None:
    one, two = "m.0.experts", "m.1.experts"
    modules = {one, f"{one}.base_layer", two, "m.0.q_proj"}
    both = ("gate_up_proj", "down_proj")
    targets = ["0.experts.gate_up_proj", "experts.down_proj"]
    assert stacked(modules, targets, both) == {
        f"{one}.base_layer": f"{one}.gate_up_proj",
        one: f"{one}.down_proj",
        two: f"{two}.down_proj",
    }
    assert stacked(modules, ["perts.down_proj"], both) == {}
    assert stacked({one}, targets, both) == {}


def test_the_kind_is_the_last_part_that_is_no_number() -> None:
    assert kind(Q) == "q_proj"
    assert kind("blocks.0.1") == "blocks"
    assert kind("0") == "0"


part = st.text("abc_0123456789", min_size=1, max_size=6)


@given(st.lists(part, min_size=1, max_size=5), st.sampled_from("AB"), part | st.just(""), st.booleans())
def test_keys_come_back_from_the_names_they_write(parts: list[str], side: str, adapter: str, embedding: bool) -> None:
    key = Key(".".join(parts), side, adapter, embedding)  # type: ignore[arg-type]
    assert parse_key(str(key)) == key


@given(st.text(max_size=60))
def test_any_text_is_a_key_or_foreign(name: str) -> None:
    key = parse_key(name)
    assert key is None or key.module
    extra = parse_extra(name)
    assert extra is None or (extra[0] and key is None)
