from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from loradex.adapters.formats.edge import read_edge, write_edge
from loradex.adapters.formats.lora import Lora, Pair
from loradex.adapters.formats.tensor import Tensor, narrowed
from loradex.errors import AdapterInvalid
from tests.adapters.making import BASE

Q = "model.layers.0.self_attn.q_proj"
NAME, CONFIG = "processed_adapter_model.safetensors", "config.json"


def make_lora(module: str = Q, rank: int = 4, alpha: float = 6.0, size: float = 1.0, **options: Any) -> Lora:
    random = np.random.default_rng(0)
    a, b = random.normal(size=(rank, 16)) * size, random.normal(size=(24, rank)) * size
    return Lora({module: Pair(narrowed(a, "F32"), narrowed(b, "F32"), alpha)}, "org/b", options)


def process(tensors: dict[str, np.ndarray], config: dict[str, Any], folder: Path) -> dict[str, Path]:
    """What `tensorrt-edgellm-process-lora` does, by the rules that its source states."""
    rank, out = config["r"], {}
    for key, tensor in tensors.items():
        name = key.removeprefix("base_model.model.")
        name = name if name.startswith("model.") else "model." + name
        if "lora_B" in name:
            tensor = tensor * (config["lora_alpha"] / rank)
            tensor = tensor.T if tensor.shape[0] != rank else tensor
        else:
            tensor = tensor.T if tensor.shape[-1] != rank else tensor
        out[name] = np.ascontiguousarray(tensor.astype(np.float16))
    save_file(out, folder / NAME)
    (folder / CONFIG).write_text(json.dumps(config))
    return {NAME: folder / NAME, CONFIG: folder / CONFIG}


def test_what_its_own_tool_makes_is_read_with_the_scaling_applied_once(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    a, b = random.normal(size=(4, 16)).astype(np.float32), random.normal(size=(24, 4)).astype(np.float32)
    tensors = {f"base_model.model.{Q}.lora_A.weight": a, f"base_model.model.{Q}.lora_B.weight": b}
    parts = process(tensors, {"r": 4, "lora_alpha": 6, "base_model_name_or_path": "org/b"}, tmp_path)
    lora = read_edge(parts, BASE)
    pair = lora.pairs[Q]
    assert (lora.base_model, pair.rank, pair.scaling) == ("org/b", 4, 1.0)
    np.testing.assert_allclose(pair.b.widened() @ pair.a.widened(), 1.5 * b @ a, atol=2e-2)


def test_what_is_written_is_what_its_runtime_multiplies(tmp_path: Path) -> None:
    lora = make_lora()
    [note] = write_edge(lora, tmp_path)
    assert note == "2 of 2 tensors were rounded to float16"
    held = load_file(tmp_path / NAME)
    a, b = held[f"{Q}.lora_A.weight"], held[f"{Q}.lora_B.weight"]
    assert (a.shape, b.shape, a.dtype, b.dtype) == ((16, 4), (4, 24), np.float16, np.float16)
    x = np.random.default_rng(1).normal(size=(3, 16))
    pair = lora.pairs[Q]
    expected = pair.scaling * x @ pair.a.values.T @ pair.b.values.T
    np.testing.assert_allclose(x @ a.astype(float) @ b.astype(float), expected, atol=2e-2)
    said = json.loads((tmp_path / CONFIG).read_text())
    assert said["lora_alpha"] == said["r"] == 4  # whoever applies it again changes nothing


def test_a_base_without_the_prefix_is_found(tmp_path: Path) -> None:
    write_edge(make_lora("transformer.h.0.attn"), tmp_path)
    from dataclasses import replace

    base = replace(BASE, linears={"transformer.h.0.attn": BASE.linears[Q]})
    assert list(read_edge({NAME: tmp_path / NAME}, base).pairs) == ["transformer.h.0.attn"]


@pytest.mark.parametrize(
    ("lora", "code"),
    [
        (make_lora("lm_head"), "unsupported_tensors"),
        (make_lora("model.layers.0.input_layernorm"), "unsupported_tensors"),
        (make_lora(rank=16), "ambiguous"),
        (make_lora(size=1e6), "unsupported_dtype"),
        (make_lora(alora_invocation_tokens=[1]), "unsupported_option"),
    ],
)
def test_what_the_format_cannot_say_is_refused_by_name(tmp_path: Path, lora: Lora, code: str) -> None:
    with pytest.raises(AdapterInvalid) as refused:
        write_edge(lora, tmp_path)
    assert [problem.code for problem in refused.value.problems] == [code]
    assert list(tmp_path.iterdir()) == []


def halves(a: tuple[int, ...] = (16, 4), b: tuple[int, ...] = (4, 24), dtype: Any = np.float16) -> dict[str, Any]:
    return {f"{Q}.lora_A.weight": np.ones(a, dtype), f"{Q}.lora_B.weight": np.ones(b, dtype)}


@pytest.mark.parametrize(
    ("tensors", "config", "code"),
    [
        (halves(), {"use_rslora": True}, "unsupported_option"),
        (halves(), {"rank_pattern": {"q_proj": 2}}, "unsupported_option"),
        (halves(), {"use_dora": True}, "unsupported_option"),
        (halves() | {f"{Q}.lora_magnitude_vector": np.ones(4, np.float16)}, {}, "unsupported_tensors"),
        ({f"{Q}.lora_A.weight": np.ones((16, 4), np.float16)}, {}, "missing_half"),
        (halves(b=(3, 24)), {}, "bad_pair"),
        (halves(a=(16, 0), b=(0, 24)), {}, "bad_pair"),
        (halves(a=(4, 4)), {}, "ambiguous"),
        (halves(dtype=np.int8), {}, "unsupported_dtype"),
        (halves(), [], ""),
        (halves(), "{", "bad_config"),
    ],
)
def test_what_cannot_be_read_right_is_refused_by_name(
    tmp_path: Path, tensors: dict[str, Any], config: Any, code: str
) -> None:
    save_file(tensors, tmp_path / NAME)
    (tmp_path / CONFIG).write_text(config if isinstance(config, str) else json.dumps(config))
    parts = {NAME: tmp_path / NAME, CONFIG: tmp_path / CONFIG}
    if not code:
        assert list(read_edge(parts, None).pairs) == [Q]
        return
    with pytest.raises(AdapterInvalid) as refused:
        read_edge(parts, None)
    assert [problem.code for problem in refused.value.problems] == [code]


def test_halves_stay_as_they_are_where_nothing_is_scaled(tmp_path: Path) -> None:
    a, b = (np.random.default_rng(0).normal(size=shape).astype(np.float16) for shape in ((4, 16), (24, 4)))
    assert write_edge(Lora({Q: Pair(Tensor("F16", a), Tensor("F16", b), 4.0)}), tmp_path) == []
    pair = read_edge({NAME: tmp_path / NAME}, None).pairs[Q]
    assert np.array_equal(pair.a.values, a)
    assert np.array_equal(pair.b.values, b)
