from __future__ import annotations

import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loradex.adapters.base_model import model_digest
from loradex.adapters.formats.gguf import read_gguf, write_gguf
from loradex.adapters.formats.gguf_file import read_gguf_file
from loradex.adapters.formats.lora import Lora, Pair
from loradex.adapters.formats.tensor import Tensor, narrowed
from loradex.core.model import LinearShape, ModelInfo
from loradex.errors import AdapterInvalid, MissingExtra

gguf = pytest.importorskip("gguf")

HEAD, HEADS, KV, HIDDEN = 8, 4, 2, 32
Q, K, V, UP, GATE = (
    f"model.layers.3.{part}"
    for part in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.up_proj", "mlp.gate_proj")
)
ROWS = {Q: HEADS * HEAD, K: KV * HEAD, V: KV * HEAD, UP: 48, GATE: 48}


def make_base(architecture: str = "LlamaForCausalLM", head_dim: int = HEAD) -> ModelInfo:
    linears = {module: LinearShape(HIDDEN, rows) for module, rows in ROWS.items()}
    digest = model_digest(architecture, linears)
    return ModelInfo("b", "b", architecture, "float32", "cpu", 9, 9, linears, digest, False, head_dim)


def make_lora(dtype: str = "F32", alphas: dict[str, float] | None = None, **options: Any) -> Lora:
    random = np.random.default_rng(0)
    pairs = {}
    for module, rows in ROWS.items():
        a, b = random.normal(size=(4, HIDDEN)), random.normal(size=(rows, 4))
        pairs[module] = Pair(narrowed(a, dtype), narrowed(b, dtype), (alphas or {}).get(module, 8.0))
    return Lora(pairs, "org/b", options)


def delta(pair: Pair) -> np.ndarray:
    return pair.scaling * pair.b.widened() @ pair.a.widened()


def llama_cpps(weight: np.ndarray, heads: int) -> np.ndarray:
    """What `LlamaModel.permute` of llama.cpp's converter does to a whole q or k weight."""
    return weight.reshape(heads, 2, len(weight) // heads // 2, -1).swapaxes(1, 2).reshape(weight.shape)


@pytest.mark.parametrize("architecture", ["LlamaForCausalLM", "Qwen2ForCausalLM"])
def test_what_llama_cpp_would_add_is_what_its_converter_makes_of_the_whole_delta(
    tmp_path: Path, architecture: str
) -> None:
    lora, path = make_lora(), tmp_path / "a.gguf"
    assert write_gguf(lora, path, make_base(architecture)) == []
    reader = gguf.GGUFReader(path)  # the reference reader
    held = {tensor.name: tensor.data for tensor in reader.tensors}
    alpha = reader.get_field("adapter.lora.alpha").contents()
    named = {Q: "attn_q", K: "attn_k", V: "attn_v", UP: "ffn_up", GATE: "ffn_gate"}
    assert set(held) == {f"blk.3.{part}.weight.lora_{side}" for part in named.values() for side in "ab"}
    for module, part in named.items():
        a, b = (held[f"blk.3.{part}.weight.lora_{side}"].astype(np.float64) for side in "ab")
        expected = delta(lora.pairs[module])
        if architecture.startswith("Llama") and module in (Q, K):
            expected = llama_cpps(expected, HEADS if module == Q else KV)
        np.testing.assert_allclose(alpha / len(a) * b @ a, expected, rtol=1e-12)
    assert reader.get_field("general.architecture").contents() == architecture[:5].lower()
    assert reader.get_field("adapter.type").contents() == "lora"


def write_by_hand(path: Path, alpha: float | None = 8.0, architecture: str = "qwen2", **metadata: Any) -> Path:
    """A file as the reference writer makes it."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_type(metadata.pop("type", "adapter"))
    writer.add_string("adapter.type", "lora")
    if alpha is not None:
        writer.add_float32("adapter.lora.alpha", alpha)
    for name, tensor in metadata.pop("tensors", {}).items():
        writer.add_tensor(name, tensor)
    for key, value in metadata.items():
        writer.add_array(key.replace("__", "."), value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def halves(name: str, rank: int = 2, rows: int = 6, dtype: Any = np.float32) -> dict[str, np.ndarray]:
    return {f"{name}.lora_a": np.ones((rank, 4), dtype), f"{name}.lora_b": np.ones((rows, rank), dtype)}


@pytest.mark.parametrize(("alpha", "scaling"), [(8.0, 4.0), (0.0, 1.0), (None, 1.0)])
def test_alpha_zero_or_none_means_a_scaling_of_one(tmp_path: Path, alpha: float | None, scaling: float) -> None:
    path = write_by_hand(tmp_path / "a.gguf", alpha, tensors=halves("blk.0.ffn_up.weight"))
    pair = read_gguf(path, None).pairs["model.layers.0.mlp.up_proj"]
    assert (pair.scaling, pair.a.shape, pair.b.shape) == (scaling, (2, 4), (6, 2))


def test_scalings_of_their_own_go_into_b_without_loss(tmp_path: Path) -> None:
    # Twice the common alpha is exact in every dtype; a third is not, and gets float32; 0 must stay 0.
    lora, path = make_lora("BF16", {Q: 16.0, K: 8.0 / 3, V: 0.0}), tmp_path / "a.gguf"
    [note] = write_gguf(lora, path, make_base())
    assert "1 modules" in note
    back = read_gguf(path, make_base()).pairs
    assert {module: pair.b.dtype for module, pair in back.items()} == {
        Q: "BF16",
        K: "F32",
        V: "BF16",
        UP: "BF16",
        GATE: "BF16",
    }
    for module, pair in lora.pairs.items():
        np.testing.assert_allclose(delta(back[module]), delta(pair), rtol=1e-6, atol=1e-6)
    assert not delta(back[V]).any()


def test_invocation_tokens_go_along(tmp_path: Path) -> None:
    write_gguf(make_lora(alora_invocation_tokens=[5, 6]), tmp_path / "a.gguf", make_base())
    assert read_gguf(tmp_path / "a.gguf", make_base()).options == {"alora_invocation_tokens": [5, 6]}


@pytest.mark.parametrize(
    ("lora", "base", "code"),
    [
        (make_lora(), None, "no_base"),
        (make_lora(), make_base("GPT2LMHeadModel"), "unsupported_type"),
        (make_lora(), make_base("Phi3ForCausalLM"), "unknown_modules"),
        (make_lora(layer_replication=[[0, 1]]), make_base(), "unsupported_option"),
        (make_lora(), make_base(head_dim=0), "shape_mismatch"),
        (make_lora(), make_base(head_dim=12), "shape_mismatch"),
    ],
)
def test_what_the_format_cannot_say_is_refused_by_name(
    tmp_path: Path, lora: Lora, base: ModelInfo | None, code: str
) -> None:
    with pytest.raises(AdapterInvalid) as refused:
        write_gguf(lora, tmp_path / "a.gguf", base)
    assert [problem.code for problem in refused.value.problems] == [code]
    assert refused.value.problems[0].fix


@pytest.mark.parametrize(
    ("written", "code"),
    [
        ({"type": "model"}, "unsupported_type"),
        ({"architecture": "mamba"}, "unsupported_type"),
        ({"alpha": float("nan")}, "bad_config"),
        ({"tensors": {"token_embd.weight.lora_a": np.ones((2, 4), np.float32)}}, "unsupported_tensors"),
        ({"tensors": {"blk.0.attn_norm.weight": np.ones(4, np.float32)}}, "unsupported_tensors"),
        ({"tensors": {"blk.0.ffn_up.weight.lora_a": np.ones((2, 4), np.float32)}}, "missing_half"),
        ({"tensors": halves("blk.0.ffn_up.weight") | halves("blk.0.ffn_up.weight", 3)}, ""),
        ({"tensors": halves("blk.0.ffn_up.weight", dtype=np.int8)}, "unsupported_dtype"),
        ({"tensors": {**halves("output.weight"), "output.weight.lora_b": np.ones((6, 3), np.float32)}}, "bad_pair"),
    ],
)
def test_what_is_no_adapter_of_ours_is_refused_by_name(tmp_path: Path, written: dict[str, Any], code: str) -> None:
    path = write_by_hand(tmp_path / "a.gguf", **written)
    if not code:
        assert read_gguf(path, None).pairs
        return
    with pytest.raises(AdapterInvalid) as refused:
        read_gguf(path, None)
    assert [problem.code for problem in refused.value.problems] == [code]


def test_an_adapter_for_another_architecture_is_refused(tmp_path: Path) -> None:
    write_gguf(make_lora(), tmp_path / "a.gguf", make_base("Qwen2ForCausalLM"))
    with pytest.raises(AdapterInvalid, match="is for the architecture `qwen2`"):
        read_gguf(tmp_path / "a.gguf", make_base())


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


START = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("x")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"GG",
        b"GGUF" + struct.pack("<I", 4),
        b"GGUF" + struct.pack(">IQQ", 3, 0, 0),
        b"GGUF" + struct.pack("<IQQ", 3, 2**63, 0),
        b"GGUF" + struct.pack("<IQQ", 3, 0, 2**63),
        b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 2**62),
        START + struct.pack("<IIQ", 9, 4, 2**62),  # an array without end, on which the reference reader never ends
        START + struct.pack("<IIQ", 9, 8, 2**19),
        START + struct.pack("<IIQ", 9, 9, 1),
        START + struct.pack("<I", 77),
        b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + text("t") + struct.pack("<IQIQ", 1, 2**62, 0, 0),
        b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + text("t") + struct.pack("<I", 2**31),
        b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + text("t") + struct.pack("<IQIQ", 1, 1, 0, 2**63),
    ],
)
def test_a_file_that_lies_is_refused_at_once(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.gguf").write_bytes(content)
    with pytest.raises(AdapterInvalid):
        read_gguf_file(tmp_path / "a.gguf")


def test_every_kind_of_metadata_is_read_as_it_was_written(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "a.gguf", "qwen2")
    add: dict[str, Callable[[str, Any], None]] = {
        "uint8": writer.add_uint8,
        "int8": writer.add_int8,
        "uint16": writer.add_uint16,
        "int16": writer.add_int16,
        "uint32": writer.add_uint32,
        "int32": writer.add_int32,
        "uint64": writer.add_uint64,
        "int64": writer.add_int64,
    }
    for name, adding in add.items():
        adding(name, 7)
    writer.add_float32("float32", 0.5)
    writer.add_float64("float64", 0.1)
    writer.add_bool("bool", True)
    writer.add_array("texts", ["a", "é"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = read_gguf_file(tmp_path / "a.gguf").metadata
    more = {"float32": 0.5, "float64": 0.1, "bool": True, "texts": ["a", "é"], "general.architecture": "qwen2"}
    assert found == dict.fromkeys(add, 7) | more


def test_without_the_package_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(MissingExtra) as missing:
        write_gguf(make_lora(), tmp_path / "a.gguf", make_base())
    assert "loradex[gguf]" in missing.value.hint


def test_doubles_become_float32(tmp_path: Path) -> None:
    pair = Pair(Tensor("F64", np.ones((2, HIDDEN))), Tensor("F64", np.ones((48, 2))), 2.0)
    write_gguf(Lora({UP: pair}), tmp_path / "a.gguf", make_base())
    assert read_gguf(tmp_path / "a.gguf", make_base()).pairs[UP].a.dtype == "F32"


def test_a_side_of_nothing_does_not_hide_an_endless_one(tmp_path: Path) -> None:
    shape = struct.pack("<IQQIQ", 2, 2**63 + 4, 0, 0, 0)
    (tmp_path / "a.gguf").write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + text("t") + shape + bytes(64))
    with pytest.raises(AdapterInvalid, match="above the limit"):
        read_gguf_file(tmp_path / "a.gguf")
