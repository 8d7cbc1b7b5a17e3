from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loradex.adapters.keys import Key, foreign, kind, parse_key

Q = "model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    ("name", "key"),
    [
        (f"base_model.model.{Q}.lora_A.weight", Key(Q, "A")),
        (f"base_model.model.{Q}.lora_B.weight", Key(Q, "B")),
        (f"base_model.model.{Q}.lora_A.default.weight", Key(Q, "A", "default")),
        (f"{Q}.lora_B.weight", Key(Q, "B")),
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
    ("name", "option"),
    [
        ("base_model.model.model.embed_tokens.lora_embedding_A", "embeddings"),
        (f"base_model.model.{Q}.lora_magnitude_vector", "dora"),
        (f"base_model.model.{Q}.lora_magnitude_vector.default.weight", "dora"),
        (f"base_model.model.{Q}.lora_B.bias", "lora_bias"),
        (f"base_model.model.{Q}.lora_diag", "kasa"),
        (f"base_model.model.{Q}.bias", "bias"),
        ("base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta", "trainable_tokens"),
        ("base_model.model.lm_head.modules_to_save.weight", "modules_to_save"),
        ("base_model.model.model.embed_tokens.base_layer.weight", "modules_to_save"),
        ("base_model.model.lm_head.weight", "full"),
        ("something", "unknown"),
    ],
)
def test_other_tensors_are_given_to_the_option_they_belong_to(name: str, option: str) -> None:
    assert parse_key(name) is None
    assert foreign(name) == option


def test_the_kind_is_the_last_part_that_is_no_number() -> None:
    assert kind(Q) == "q_proj"
    assert kind("blocks.0.1") == "blocks"
    assert kind("0") == "0"


part = st.text("abc_0123456789", min_size=1, max_size=6)


@given(st.lists(part, min_size=1, max_size=5), st.sampled_from("AB"), part | st.just(""))
def test_keys_come_back_from_the_names_they_write(parts: list[str], side: str, adapter: str) -> None:
    key = Key(".".join(parts), side, adapter)  # type: ignore[arg-type]
    assert parse_key(str(key)) == key


@given(st.text(max_size=60))
def test_any_text_is_a_key_or_foreign(name: str) -> None:
    key = parse_key(name)
    assert key is None or key.module
    assert foreign(name)
