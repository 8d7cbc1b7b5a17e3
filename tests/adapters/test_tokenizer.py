"""What a tokenizer beside an adapter adds: read as data, with limits, and always to the same bytes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loradex.adapters.digest import digest
from loradex.adapters.read import read_adapter
from loradex.adapters.tokenizer import FILE, FILES, read_vocabulary, tokenizer_files
from loradex.adapters.vocabulary import AddedToken, Vocabulary
from loradex.errors import AdapterInvalid
from loradex.registry.registry import Registry

from .making import BASE, make_adapter, make_tensors

TRAINED = {"base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta": np.ones((1, 16), np.float32)}
TOOL = {"id": 7, "content": "<tool>", "special": True, "normalized": False, "lstrip": True}


def save(folder: Path, *tokens: Any, settings: Any = None, template: str | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {"a": 0}}, "added_tokens": tokens}))
    if settings is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    if template is not None:
        (folder / "chat_template.jinja").write_text(template)
    return folder


def read(folder: Path) -> Vocabulary | None:
    return read_vocabulary(tokenizer_files(folder))


def test_tokens_end_and_template_are_read(tmp_path: Path) -> None:
    folder = save(
        tmp_path, TOOL, {"id": 3, "content": "b"}, settings={"eos_token": {"content": "<tool>"}}, template="t"
    )
    found = read(folder)
    assert found == Vocabulary((AddedToken(3, "b"), AddedToken(7, "<tool>", special=True, lstrip=True)), "<tool>", "t")
    (tmp_path / FILE).write_bytes(found.encoded())
    assert read_vocabulary({FILE: tmp_path / FILE}) == found


@pytest.mark.parametrize(
    ("settings", "template"),
    [
        ({"chat_template": "x"}, "x"),
        ({"chat_template": [{"name": "tools", "template": "y"}, {"name": "default", "template": "x"}]}, "x"),
        ({"chat_template": [{"name": "tools", "template": "y"}]}, ""),
        ({"chat_template": 5, "eos_token": 5}, ""),
        ({}, ""),
    ],
)
def test_older_settings_hold_the_template(tmp_path: Path, settings: Any, template: str) -> None:
    assert read(save(tmp_path, TOOL, settings=settings)) == Vocabulary(
        (AddedToken(7, "<tool>", special=True, lstrip=True),), "", template
    )


@pytest.mark.parametrize(
    ("token", "what"),
    [
        ("text", "an added token that is none"),
        ({"id": -1, "content": "a"}, "an added token that is none"),
        ({"id": True, "content": "a"}, "an added token that is none"),
        ({"id": 2**31, "content": "a"}, "an added token that is none"),
        ({"id": 1, "content": "a", "special": "yes"}, "an added token that is none"),
        ({"id": 1, "content": ""}, "without a text"),
        ({"id": 1, "content": "a" * 1025}, "without a text"),
        ({"id": 1, "content": "\ud800"}, "without a text"),
        ({"id": 7, "content": "b"}, "an added token twice"),
        ({"id": 8, "content": "<tool>"}, "an added token twice"),
    ],
)
def test_what_is_no_token_is_refused(tmp_path: Path, token: Any, what: str) -> None:
    with pytest.raises(AdapterInvalid) as error:
        read(save(tmp_path, TOOL, token))
    assert what in error.value.problems[0].what


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff", b'{"added_tokens": 5}', b"[" * 100_000])
def test_what_is_no_tokenizer_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(AdapterInvalid):
        read(tmp_path)


def test_large_files_are_not_read(tmp_path: Path) -> None:
    folder = save(tmp_path, TOOL)
    with (folder / "tokenizer.json").open("r+b") as file:
        file.truncate(FILES["tokenizer.json"] + 1)
    with pytest.raises(AdapterInvalid, match="cannot be read"):
        read(folder)


def test_it_is_part_of_what_an_adapter_is_where_tokens_were_trained(tmp_path: Path) -> None:
    plain = make_adapter(tmp_path / "plain", make_tensors())
    before = read_adapter(plain).digest
    save(plain, TOOL)
    assert read_adapter(plain).vocabulary is None
    assert read_adapter(plain).digest == before  # it says nothing that the weights have learnt
    trained = make_adapter(tmp_path / "trained", make_tensors() | TRAINED, trainable_token_indices=[7])
    without = read_adapter(trained).digest
    save(trained, TOOL)
    with_tokens = read_adapter(trained)
    assert with_tokens.digest != without
    assert with_tokens.vocabulary == Vocabulary((AddedToken(7, "<tool>", special=True, lstrip=True),))
    save(trained, {**TOOL, "content": "<other>"})
    assert read_adapter(trained).digest not in (without, with_tokens.digest)


def test_the_store_keeps_it(tmp_path: Path) -> None:
    folder = make_adapter(tmp_path / "a", make_tensors() | TRAINED, trainable_token_indices=[7])
    save(folder, TOOL, settings={"eos_token": "<tool>"}, template="{{ messages }}")
    with Registry(tmp_path / "home") as registry:
        staged = registry.stage(folder, BASE, max_rank=16)
        ref = registry.commit("medical", staged)
        stored = registry.adapter(ref.digest, verify=True)
        assert sorted(path.name for path in stored.path.iterdir()) == [
            *("adapter_config.json", "adapter_model.safetensors", "stamp.json", FILE)
        ]
        assert stored.vocabulary == read(folder)
        assert ref.digest == read_adapter(folder).digest == digest(stored.path)
