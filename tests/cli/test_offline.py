"""The verbs of `loradex adapter` where no server runs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.cli.conftest import Loradex
from tests.server.serving import save_adapter


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A base model's folder, whose shapes are those that `save_adapter` fits."""
    folder = tmp_path / "base"
    folder.mkdir()
    tensors = {}
    for layer in range(2):
        for name, out in (("q_proj", 32), ("k_proj", 16), ("v_proj", 16), ("o_proj", 32)):
            tensors[f"model.layers.{layer}.self_attn.{name}.weight"] = np.zeros((out, 32), np.float32)
    save_file(tensors, folder / "model.safetensors")
    config = {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "vocab_size": 100}
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 64}))
    return folder


def test_the_life_of_an_adapter(loradex: Loradex, base: Path, tmp_path: Path) -> None:
    one, two = save_adapter(tmp_path / "one"), save_adapter(tmp_path / "two", seed=1)
    first = loradex("adapter", "add", "medical", one, "--base", base, "--json").json
    assert (first["version"], first["previous"]) == (1, None)
    second = loradex("adapter", "add", "medical", two, "--base", base, "--json").json
    assert (second["version"], second["previous"]["version"]) == (2, 1)
    assert loradex("adapter", "ls", "-q").out == "medical\n"
    assert loradex("adapter", "show", "medical", "--json").json["current"] == 2
    assert loradex("adapter", "rollback", "medical", "-q").out == "medical@1\n"
    assert loradex("adapter", "promote", "medical", 2, "-q").out == "medical@2\n"
    actions = [each["action"] for each in loradex("adapter", "history", "medical", "--json").json["history"]]
    assert actions == ["promote", "rollback", "add", "add"]
    assert loradex("adapter", "canary", "medical", "1=10", "--json").json["canary"] == {"1": 10.0, "2": 90.0}
    assert loradex("adapter", "history", "medical", "--json").json["history"][0]["note"] == "1=10 2=90"
    assert loradex("adapter", "canary", "medical", "--end").out == "medical is version 2\n"
    assert loradex("adapter", "shadow", "medical", 1, "--json").json["shadow"] == {"version": 1, "percent": 100.0}
    assert loradex("adapter", "shadow", "medical", "--end").out == "medical has no shadow\n"
    assert loradex("adapter", "set", "medical", "--version", 1, "--system", "Be one.").code == 0
    assert [each["defaults"] for each in loradex("adapter", "show", "medical", "--json").json["versions"]] == [
        {"system": "Be one."},
        {},
    ]
    assert loradex("adapter", "rm", "medical").code == 0
    assert loradex("adapter", "ls", "--json").json == {"adapters": [], "invalid": []}


def test_the_base_that_the_adapter_names_is_taken_where_it_is_here(
    loradex: Loradex, base: Path, tmp_path: Path
) -> None:
    known = save_adapter(tmp_path / "known", base=str(base))
    unknown = save_adapter(tmp_path / "unknown", base="somebody/else")
    assert loradex("adapter", "check", known, "--json").json["ok"]
    ran = loradex("adapter", "check", unknown)
    assert ran.code == 2
    assert "somebody/else" in ran.err
    assert "--base" in ran.err


def test_a_misfit_is_refused_and_nothing_is_stored(loradex: Loradex, base: Path, tmp_path: Path) -> None:
    broken = save_adapter(tmp_path / "broken", broken=True)
    assert loradex("adapter", "check", broken, "--base", base, "--json").json["ok"] is False
    assert loradex("adapter", "add", "x", broken, "--base", base).code == 1
    assert loradex("adapter", "ls", "--json").json == {"adapters": [], "invalid": []}


def test_a_taken_name_is_a_conflict_on_request(loradex: Loradex, base: Path, tmp_path: Path) -> None:
    one = save_adapter(tmp_path / "one")
    loradex("adapter", "add", "x", one, "--base", base)
    ran = loradex("adapter", "add", "x", one, "--base", base, "--no-replace")
    assert ran.code == 1
    assert "--no-replace" in ran.err
