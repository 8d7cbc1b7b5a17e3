from __future__ import annotations

import collections
import os
import pickle
import pickletools
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loradex.adapters.formats.mapped import Mapped
from loradex.adapters.formats.tensor import Tensor, narrowed
from loradex.adapters.formats.torch_file import TorchFile, write_torch_file
from loradex.errors import AdapterInvalid

torch = pytest.importorskip("torch")


def read(path: Path) -> dict[str, Tensor]:
    return TorchFile(Mapped.whole(path)).tensors()


def as_torch(tensor: Tensor) -> Any:
    found = torch.from_numpy(tensor.values.copy())
    return found.view(torch.bfloat16) if tensor.dtype == "BF16" else found


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "float64"])
def test_tensors_are_those_that_torch_saved(tmp_path: Path, dtype: str) -> None:
    whole = torch.randn(12, 10).to(getattr(torch, dtype))
    saved = {
        "plain": whole,
        "turned": whole.t(),
        "rows": whole[3:5],
        "columns": whole[:, 2:4],
        "every other": whole[::2, ::3],
        "parameter": torch.nn.Parameter(whole),
        "nothing": whole[:0],
        "one": whole[0, 0],
    }
    torch.save(collections.OrderedDict(saved), tmp_path / "a.ckpt")
    found = read(tmp_path / "a.ckpt")
    assert found.keys() == saved.keys()
    for name, tensor in saved.items():
        if name != "nothing":
            assert torch.equal(as_torch(found[name]).reshape(tensor.shape), tensor), name


def test_a_state_dict_with_its_metadata_is_read(tmp_path: Path) -> None:
    linear = torch.nn.Sequential(torch.nn.Linear(3, 2, bias=False))
    state = linear.state_dict()  # an OrderedDict with attributes
    state["0._extra_state"] = None
    torch.save(state, tmp_path / "a.ckpt")
    assert list(read(tmp_path / "a.ckpt")) == ["0.weight"]


def test_torch_reads_what_is_written(tmp_path: Path) -> None:
    random = np.random.default_rng(0).normal(size=(5, 3))
    written = {f"é.{dtype}": narrowed(random, dtype) for dtype in ("F32", "F16", "BF16", "F64")}
    written["turned"] = written["é.F32"].transposed()
    write_torch_file(tmp_path / "a.ckpt", written)
    loaded = torch.load(tmp_path / "a.ckpt", weights_only=True)
    back = read(tmp_path / "a.ckpt")
    assert list(loaded) == list(back) == list(written)
    for name, tensor in written.items():
        assert torch.equal(loaded[name], as_torch(tensor))
        assert np.array_equal(back[name].values, tensor.values)
    write_torch_file(tmp_path / "b.ckpt", written)
    assert (tmp_path / "a.ckpt").read_bytes() == (tmp_path / "b.ckpt").read_bytes()


class Call:
    """Runs something when it is unpickled."""

    def __init__(self, function: Callable[..., Any], *given: Any) -> None:
        self.reduced = (function, given)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.reduced


def packed(path: Path, content: bytes, compressed: bool = False) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED) as archive:
        archive.writestr("x/data.pkl", content)
        archive.writestr("x/data/0", bytes(64))
    return path


def test_code_does_not_run(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    for call in (
        Call(Path.touch, ran),
        Call(os.system, f"touch {ran}"),
        Call(eval, f"open({str(ran)!r}, 'w')"),
        Call(getattr, "x", "__class__"),
        Call(pickle.loads, pickle.dumps(Call(Path.touch, ran))),
    ):
        torch.save({"a": call}, tmp_path / "a.ckpt")
        with pytest.raises(AdapterInvalid, match=r"names `[\w.]+`, which is not loaded|has no need of"):
            read(tmp_path / "a.ckpt")
    assert not ran.exists()


PERSISTENT = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x10tQ"


def described(shape: bytes, strides: bytes, offset: bytes = b"K\x00") -> bytes:
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + PERSISTENT + offset + shape + strides + b"\x89}tR"
    return b"\x80\x02}X\x01\x00\x00\x00a" + tensor + b"s."


def test_the_description_by_hand_is_right(tmp_path: Path) -> None:
    found = read(packed(tmp_path / "a.ckpt", described(b"K\x04K\x04\x86", b"K\x04K\x01\x86")))
    assert found["a"].shape == (4, 4)


HUGE = b"\x8a\x08" + (2**62).to_bytes(8, "little")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (described(b"K\x04K\x05\x86", b"K\x05K\x01\x86"), "outside its storage"),
        (described(HUGE + b"K\x01\x86", b"K\x00K\x00\x86"), "cannot be"),
        (described(b"J\xff\xff\xff\x7fK\x04\x86", b"K\x00K\x00\x86"), "outside its storage"),
        (described(b"K\x04K\x04\x86", b"K\x04\x85"), "cannot be"),
        (described(b"K\x04K\x04\x86", b"J\xff\xff\xff\xffK\x01\x86"), "cannot be"),
        (described(b"K\x04K\x04\x86", b"K\x04K\x01\x86", b"K\x02"), "outside its storage"),
        (b"\x80\x02}r\xff\xff\xff\x7f.", "more memory than it holds"),
        (b"\x80\x02" + b"}0" * 10 + b".", "uses POP"),
        (b"\x80\x02" + b"}" * 1_000_001 + b".", "more memory than it holds"),
        (b"\x80\x02ccollections\nOrderedDict\nN}X\x01\x00\x00\x00aK\x01s\x86b.", "sets an attribute|is broken"),
        (b"\x80\x02}", "is broken"),
        (b"\x80\x02].", "does not hold a table"),
        (b"\x80\x02}K\x01K\x02s.", "is not a dense tensor"),
        (b"\x80\x02}X\x01\x00\x00\x00aNs.", "is not a dense tensor"),
        (PERSISTENT.replace(b"FloatStorage", b"LongStorage") + b".", "torch.LongStorage"),
    ],
)
def test_what_lies_or_grows_is_refused(tmp_path: Path, content: bytes, says: str) -> None:
    with pytest.raises(AdapterInvalid, match=says):
        read(packed(tmp_path / "a.ckpt", content))


def test_a_compressed_archive_is_a_bomb_or_a_stranger(tmp_path: Path) -> None:
    path = packed(tmp_path / "a.ckpt", described(b"K\x04K\x04\x86", b"K\x04K\x01\x86"), compressed=True)
    with pytest.raises(AdapterInvalid, match="compressed"):
        read(path)


def test_other_archives_are_refused(tmp_path: Path) -> None:
    for names in ([], ["x/data.pkl", "y/data.pkl"]):
        with zipfile.ZipFile(tmp_path / "a.ckpt", "w") as archive:
            for name in names:
                archive.writestr(name, b"\x80\x02}.")
        with pytest.raises(AdapterInvalid, match=f"holds {len(names)} pickles"):
            read(tmp_path / "a.ckpt")
    torch.save({"a": torch.zeros(2)}, tmp_path / "old.ckpt", _use_new_zipfile_serialization=False)
    with pytest.raises(AdapterInvalid, match=r"before PyTorch 1\.6"):
        read(tmp_path / "old.ckpt")


def test_what_torch_saves_beside_dense_floats_is_refused(tmp_path: Path) -> None:
    for held in ({"a": torch.eye(2).to_sparse()}, {"a": torch.zeros(2, dtype=torch.int64)}, [torch.zeros(2)], {}):
        torch.save(held, tmp_path / "a.ckpt")
        with pytest.raises(AdapterInvalid):
            read(tmp_path / "a.ckpt")


def test_only_opcodes_of_plain_values_are_known() -> None:
    from loradex.adapters.formats.torch_pickle import _OPCODES

    known = {opcode.name for opcode in pickletools.opcodes}
    assert known >= _OPCODES
    assert not _OPCODES & {"INST", "OBJ", "EXT1", "EXT2", "EXT4", "NEWOBJ_EX", "PERSID", "POP", "DUP", "NEXT_BUFFER"}
