from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from loradex.adapters.pickled import convert
from loradex.errors import AdapterInvalid
from tests.adapters.making import make_tensors

torch = pytest.importorskip("torch")


def test_tensors_come_out_equal_and_always_in_the_same_bytes(tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    tensors = make_tensors()
    torch.save({name: torch.from_numpy(tensor) for name, tensor in tensors.items()}, tmp_path / "a.bin")
    backwards = {name: torch.from_numpy(tensor) for name, tensor in reversed(tensors.items())}
    torch.save(backwards, tmp_path / "b.bin")
    for name in "ab":
        convert(tmp_path / f"{name}.bin", tmp_path / f"{name}.safetensors")
    found = load_file(tmp_path / "a.safetensors")
    assert all(np.array_equal(found[name], tensor) for name, tensor in tensors.items())
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"text", b"\x80\x02.", bytes(1000), pickle.dumps({"a": 1})])
def test_what_is_no_pickle_of_tensors_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.bin").write_bytes(content)
    with pytest.raises(AdapterInvalid):
        convert(tmp_path / "a.bin", tmp_path / "out")
    assert not (tmp_path / "out").exists()
