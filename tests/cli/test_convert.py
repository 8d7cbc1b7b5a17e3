from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.cli.conftest import Loradex
from tests.server.serving import Deck, save_adapter

EDGE = "processed_adapter_model.safetensors"


def test_there_and_back(loradex: Loradex, base: Path, tmp_path: Path) -> None:
    source = save_adapter(tmp_path / "peft", base=str(base))  # names its base, so nobody has to
    there = loradex("adapter", "convert", source, "--to", "gguf", "--out", "there", "--json").json
    assert (there["source"], there["target"], there["modules"], there["notes"]) == ("peft", "gguf", 4, [])
    ran = loradex("adapter", "convert", "there/adapter.gguf", "--to", "peft", "--out", "back", "--base", base)
    assert ran.code == 0
    assert "gguf" in ran.out
    before, after = (load_file(each / "adapter_model.safetensors") for each in (source, tmp_path / "back"))
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_a_file_is_written_where_its_name_says_so(loradex: Loradex, base: Path, tmp_path: Path) -> None:
    source = save_adapter(tmp_path / "peft", base=str(base))
    assert loradex("adapter", "convert", source, "--to", "gguf", "--out", "new/a.gguf", "-q").out == "new/a.gguf\n"
    assert (tmp_path / "new" / "a.gguf").read_bytes()[:4] == b"GGUF"
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.gguf"]


def test_what_is_rounded_is_said(loradex: Loradex, tmp_path: Path) -> None:
    source = save_adapter(tmp_path / "peft")
    ran = loradex("adapter", "convert", source, "--to", "edge", "--out", "edge")
    assert "8 of 8 tensors were rounded to float16" in ran.out
    assert sorted(path.name for path in (tmp_path / "edge").iterdir()) == ["config.json", EDGE]


def test_what_began_on_a_changed_base_is_made_plain(loradex: Loradex, tmp_path: Path) -> None:
    before, after = save_adapter(tmp_path / "before"), save_adapter(tmp_path / "after")
    config = after / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"init_lora_weights": "corda"}))
    refused = loradex("adapter", "convert", after, "--to", "peft", "--out", "plain")
    assert "training changed the base weights" in refused.err
    ran = loradex("adapter", "convert", after, "--to", "peft", "--out", "plain", "--initial", before)
    assert ran.code == 0
    rank = json.loads(config.read_text())["r"]
    assert json.loads((tmp_path / "plain" / "adapter_config.json").read_text())["r"] == 2 * rank


@pytest.mark.parametrize(
    ("argv", "code", "says"),
    [
        (["peft", "--to", "gguf", "--out", "x"], 1, "--base DIR"),
        (["peft", "--to", "edge", "--out", "peft"], 1, "exists already"),
        (["nowhere", "--to", "edge", "--out", "x"], 3, "does not exist"),
        (["peft", "--to", "onnx", "--out", "x"], 2, "gguf"),
        (["peft", "--to", "edge"], 2, "--out"),
    ],
)
def test_exit_codes(loradex: Loradex, tmp_path: Path, argv: list[str], code: int, says: str) -> None:
    save_adapter(tmp_path / "peft")
    ran = loradex("adapter", "convert", *argv)
    assert (ran.code, ran.out) == (code, "")
    assert says in ran.err
    assert not (tmp_path / "x").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["peft"]


def test_a_server_takes_a_converted_adapter(loradex: Loradex, deck: Deck) -> None:
    loradex("adapter", "convert", deck.folder / "medical", "--to", "edge", "--out", deck.folder / "edge")
    assert loradex("adapter", "check", deck.folder / "edge", "--json").json["ok"]
    assert loradex("adapter", "add", "medical", deck.folder / "edge" / EDGE, "-q").out == "medical@1\n"
