from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loradex.adapters.header import read_header
from loradex.errors import AdapterInvalid, FilesNotFound
from tests.adapters.making import make_tensors, raw_file, safetensors


def refusal(tmp_path: Path, content: bytes) -> tuple[str, str]:
    path = tmp_path / "adapter_model.safetensors"
    path.write_bytes(content)
    with pytest.raises(AdapterInvalid) as error:
        read_header(path)
    (problem,) = error.value.problems
    assert problem.fix
    return problem.code, problem.what


def entry(**changes: object) -> dict[str, object]:
    return {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | changes


def test_places_and_shapes_are_those_of_the_safetensors_library(tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    path = tmp_path / "x.safetensors"
    tensors = {**make_tensors(), "empty": np.zeros((0, 3), np.float32), "scalar": np.array(2.0)}
    save_file(tensors, path, metadata={"format": "pt"})
    header = read_header(path)
    content = path.read_bytes()
    assert header.metadata == {"format": "pt"}
    assert header.size == len(content)
    for name, tensor in load_file(path).items():
        info = header.tensors[name]
        assert info.shape == tensor.shape
        assert info.count == tensor.size
        assert content[info.start : info.end] == tensor.tobytes()


@pytest.mark.parametrize(
    ("start", "code", "what"),
    [
        (b"PK\x03\x04" + bytes(100), "pickle", "zip"),
        (b"\x80\x02}q\x00." + bytes(100), "pickle", "pickle"),
        (b"<!DOCTYPE html><html>", "html", "HTML"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "git_lfs_pointer", "git-lfs"),
        (b"GGUF\x03\x00\x00\x00" + bytes(100), "gguf", "GGUF"),
        (b"", "empty_file", "empty"),
        (b"\x01\x02\x03", "truncated", "3 bytes"),
        (b"\xff" * 64, "not_safetensors", "header"),
        ((5000).to_bytes(8, "little") + b"{}" * 20, "truncated", "needs 5008 bytes, the file has 48"),
    ],
)
def test_other_files_are_named_for_what_they_are(tmp_path: Path, start: bytes, code: str, what: str) -> None:
    found, message = refusal(tmp_path, start)
    assert found == code
    assert what in message


def test_a_header_whose_length_looks_like_a_disguise_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    for first in (b"<"[0], 0x80):
        path.write_bytes(safetensors({"a": np.zeros(1, np.float32)}))
        text = json.dumps({"a": entry(shape=[1], data_offsets=[0, 4])}).ljust(256 + first).encode()
        path.write_bytes((256 + first).to_bytes(8, "little") + text + bytes(4))
        assert list(read_header(path).tensors) == ["a"]


def test_a_truncated_file_names_both_sizes(tmp_path: Path) -> None:
    content = safetensors(make_tensors())
    code, what = refusal(tmp_path, content[:-100])
    assert code == "truncated"
    assert f"describes {len(content)} bytes, the file has {len(content) - 100}" in what


@pytest.mark.parametrize(
    ("header", "body", "what"),
    [
        ([], 0, "not a JSON object"),
        ({"a": 3}, 0, "not an object"),
        ({"a": entry(dtype="F7")}, 8, "dtype F7 is unknown"),
        ({"a": entry(dtype=["F32"])}, 8, "is unknown"),
        ({"a": entry(shape=[-2])}, 8, "shape"),
        ({"a": entry(shape=[True])}, 8, "shape"),
        ({"a": entry(shape=[1] * 99)}, 8, "shape"),
        ({"a": entry(shape="2")}, 8, "shape"),
        ({"a": entry(data_offsets=[0])}, 8, "data_offsets"),
        ({"a": entry(data_offsets=[8, 0])}, 8, "data_offsets span"),
        ({"a": entry(data_offsets=[0, 4])}, 8, "needs 8 bytes, its data_offsets span 4"),
        ({"a": entry(), "b": entry()}, 8, "overlaps"),
        ({"a": entry(), "b": entry(data_offsets=[12, 20])}, 20, "gap"),
        ({"a": entry(data_offsets=[4, 12])}, 12, "gap"),
        ({"a": entry()}, 9, "1 bytes after"),
        ({"a\x1b[31m": entry()}, 8, "printable"),
        ({"a\ud800": entry()}, 8, "printable"),
        ({"__metadata__": {"a": 1}}, 0, "metadata"),
        ({"__metadata__": "x"}, 0, "metadata"),
    ],
)
def test_a_header_that_contradicts_itself_is_refused(tmp_path: Path, header: object, body: int, what: str) -> None:
    code, message = refusal(tmp_path, raw_file(header, bytes(body)))
    assert code == "bad_header"
    assert what in message


@pytest.mark.parametrize("text", ["{         ", '{"a": 1, "a": 2}', "[" * 100_000, "\xff" * 9, "1" * 10_000])
def test_a_header_that_is_not_json_is_refused(tmp_path: Path, text: str) -> None:
    content = text.encode("latin-1")
    code, message = refusal(tmp_path, len(content).to_bytes(8, "little") + content)
    assert code == "bad_header"
    assert "JSON" in message


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FilesNotFound, match=r"gone\.safetensors"):
        read_header(tmp_path / "gone.safetensors")


def test_a_huge_claim_costs_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    huge = entry(shape=[2**31, 2**31], data_offsets=[0, 2**62 // 2 * 8])
    path.write_bytes(raw_file({"a": huge}) + bytes(100))
    tracemalloc.start()
    with pytest.raises(AdapterInvalid):
        read_header(path)
    path.write_bytes((99_999_999).to_bytes(8, "little") + b"{" * 1000)
    with pytest.raises(AdapterInvalid):
        read_header(path)
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()


@settings(max_examples=150, deadline=None)
@given(content=st.binary(max_size=200))
def test_random_bytes_raise_only_typed_errors(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "random.safetensors"
    path.write_bytes(content)
    with pytest.raises(AdapterInvalid):
        read_header(path)


json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(
    name=st.text(max_size=5),
    dtype=st.sampled_from(["F32", "BF16", "F4"]) | json_like,
    shape=st.lists(st.integers(0, 4), max_size=3) | json_like,
    offsets=st.lists(st.integers(-1, 40), min_size=2, max_size=2) | json_like,
    body=st.integers(0, 40),
)
def test_random_headers_give_a_header_or_a_typed_error(
    tmp_path_factory: pytest.TempPathFactory, name: str, dtype: object, shape: object, offsets: object, body: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "header.safetensors"
    path.write_bytes(raw_file({name: {"dtype": dtype, "shape": shape, "data_offsets": offsets}}, bytes(body)))
    try:
        header = read_header(path)
    except AdapterInvalid:
        return
    assert max((info.end for info in header.tensors.values()), default=header.size) == header.size


@settings(max_examples=100, deadline=None)
@given(position=st.integers(0, 3000), value=st.integers(0, 255))
def test_a_changed_byte_gives_a_header_or_a_typed_error(
    tmp_path_factory: pytest.TempPathFactory, position: int, value: int
) -> None:
    content = bytearray(safetensors(make_tensors(rank=1)))
    content[position % len(content)] = value
    path = tmp_path_factory.getbasetemp() / "byte.safetensors"
    path.write_bytes(content)
    try:
        read_header(path)
    except AdapterInvalid:
        return
