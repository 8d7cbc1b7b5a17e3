from __future__ import annotations

from pathlib import Path

import pytest

from loradex.adapters.files import AdapterFiles
from loradex.adapters.formats.detect import ForeignFiles, find_adapter
from loradex.errors import FilesNotFound
from tests.adapters.making import make_adapter

EDGE = "processed_adapter_model.safetensors"
NEMO = ["model_config.yaml", "model_weights.ckpt"]


@pytest.mark.parametrize(
    ("files", "named", "form", "parts"),
    [
        (["a.gguf"], "a.gguf", "gguf", ["a.gguf"]),
        (["A.GGUF"], ".", "gguf", ["A.GGUF"]),
        ([EDGE, "config.json"], ".", "edge", [EDGE, "config.json"]),
        ([EDGE], EDGE, "edge", [EDGE]),
        (["a.nemo"], "a.nemo", "nemo", ["a.nemo"]),
        (["a.nemo"], ".", "nemo", ["a.nemo"]),
        (["model_weights.ckpt", "model_config.yaml", "x.ckpt"], ".", "nemo", NEMO),
    ],
)
def test_formats_are_known_by_their_files(
    tmp_path: Path, files: list[str], named: str, form: str, parts: list[str]
) -> None:
    for name in files:
        (tmp_path / name).write_bytes(b"x")
    found = find_adapter(tmp_path / named)
    assert isinstance(found, ForeignFiles)
    assert found.format == form
    assert found.folder == tmp_path / named
    assert dict(found.parts) == {part: tmp_path / part for part in parts}


@pytest.mark.parametrize("beside", ["adapter_config.json", EDGE])
def test_a_file_that_is_not_there_is_looked_for_beside(tmp_path: Path, beside: str) -> None:
    (tmp_path / beside).write_bytes(b"x")
    with pytest.raises(FilesNotFound, match=r"adapter\.safetensors: it does not exist") as missing:
        find_adapter(tmp_path / "adapter.safetensors")
    assert str(tmp_path) in missing.value.hint


def test_peft_comes_first(tmp_path: Path) -> None:
    make_adapter(tmp_path)
    (tmp_path / "a.gguf").write_bytes(b"x")
    assert isinstance(find_adapter(tmp_path), AdapterFiles)


@pytest.mark.parametrize(
    ("files", "named", "says"),
    [
        ([], ".", "adapter_config.json is missing"),
        ([], "nothing", "does not exist"),
        (["a.txt"], "a.txt", "is a file"),
        (["a.gguf", "b.nemo"], ".", "holds 2 adapters: a.gguf, b.nemo"),
        (["model_weights.ckpt"], ".", "adapter_config.json is missing"),
        ([], "a\0b", "No adapter"),
        ([], "x" * 5000, "No adapter"),
    ],
)
def test_what_is_no_adapter_is_said(tmp_path: Path, files: list[str], named: str, says: str) -> None:
    for name in files:
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(FilesNotFound, match=says):
        find_adapter(tmp_path / named)
