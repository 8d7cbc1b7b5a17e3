from __future__ import annotations

import pickle
import sys
from pathlib import Path

import numpy as np
import pytest

from loradex.adapters.pickled import convert
from loradex.errors import AdapterInvalid, MissingExtra
from tests.adapters.making import make_tensors

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.filterwarnings("ignore:Detected pickle protocol")


class Touch:
    """Runs code when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.path,))


def test_tensors_come_out_equal_and_always_in_the_same_bytes(tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    tensors = make_tensors()
    torch.save({name: torch.from_numpy(tensor) for name, tensor in tensors.items()}, tmp_path / "a.bin")
    shared = torch.from_numpy(np.stack([*tensors.values()][0:1])[0])
    backwards = {name: torch.from_numpy(tensor) for name, tensor in reversed(tensors.items())}
    torch.save(backwards | {next(iter(tensors)): shared}, tmp_path / "b.bin")
    for name in "ab":
        convert(tmp_path / f"{name}.bin", tmp_path / f"{name}.safetensors")
    found = load_file(tmp_path / "a.safetensors")
    assert all(np.array_equal(found[name], tensor) for name, tensor in tensors.items())
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_code_in_a_pickle_does_not_run(tmp_path: Path) -> None:
    source = tmp_path / "adapter_model.bin"
    torch.save({"a": Touch(tmp_path / "ran")}, source)
    with pytest.raises(AdapterInvalid, match=r"adapter_model\.bin cannot be read as tensors alone"):
        convert(source, tmp_path / "out")
    source.write_bytes(pickle.dumps({"a": Touch(tmp_path / "ran")}))
    with pytest.raises(AdapterInvalid):
        convert(source, tmp_path / "out")
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"text", b"\x80\x02.", bytes(1000)])
def test_what_is_no_pickle_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.bin").write_bytes(content)
    with pytest.raises(AdapterInvalid):
        convert(tmp_path / "a.bin", tmp_path / "out")


def test_anything_but_named_dense_tensors_is_refused(tmp_path: Path) -> None:
    for held in ([torch.zeros(2)], {}, {"a": 1}, {1: torch.zeros(2)}, {"a": torch.eye(2).to_sparse()}):
        torch.save(held, tmp_path / "a.bin")
        with pytest.raises(AdapterInvalid):
            convert(tmp_path / "a.bin", tmp_path / "out")


def test_without_torch_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtra) as error:
        convert(tmp_path / "a.bin", tmp_path / "out")
    assert "loradex[local]" in error.value.hint
