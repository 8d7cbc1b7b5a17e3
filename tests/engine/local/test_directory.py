"""An engine directory, and a quantized checkpoint, answer as what they were made from, and round nothing again."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from loradex.adapters.base_model import read_model_info
from loradex.adapters.header import read_header
from loradex.engine.built import Limits, within
from loradex.engine.config import EngineConfig
from loradex.engine.local import produce, quantized
from loradex.engine.local.engine import LocalEngine
from loradex.engine.local.packed import PackedLinear, multiplies_bfloat16
from loradex.engine.local.quantized import quantized_linears
from loradex.errors import ConfigInvalid, Conflict

from .test_parity import digest, prompts
from .tiny import GREEDY, Family, Running, answer


def tell(stage: str, share: float) -> None:
    assert 0 <= share <= 1


async def built(made: Family, folder: Path, limits: Limits | None = None, **settings: Any) -> Path:
    """Build an engine directory of a family's base."""
    config = EngineConfig(**({"model": str(made.base), "kv_cache_memory": 1 << 24, "threads": 1} | settings))
    done = await produce.build(config, limits or Limits(), folder / "engine", tell)
    assert done.folder == folder / "engine"
    return done.folder


async def mixed_answers(engine: LocalEngine, made: Family) -> list[list[int]]:
    asked = [(tokens, [None, 0, 1, 2][i % 4]) for i, tokens in enumerate(prompts(6))]
    return await asyncio.gather(
        *(answer(engine, str(i), tokens, digest(made, who), GREEDY) for i, (tokens, who) in enumerate(asked))
    )


@pytest.fixture(scope="module")
def directory(family, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One that is built once, and must not be changed."""
    limits = Limits(max_lora_rank=16, max_batch_size=2, max_kv_cache_capacity=10**6)
    return asyncio.run(built(family("llama"), tmp_path_factory.mktemp("built"), limits, quantization="int8"))


slow = pytest.mark.slow


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("qwen2", {"dtype": "bfloat16"}),  # tied
        pytest.param("gemma2", {"quantization": "int4"}, marks=slow),  # sliding windows, caps, buffers
        pytest.param("llama", {}, marks=slow),
        pytest.param("gpt2", {"quantization": "int8"}, marks=slow),  # weights the other way round
        pytest.param("phi3", {"quantization": "int4", "dtype": "bfloat16"}, marks=slow),
        pytest.param("qwen3_moe", {}, marks=slow),
    ],
)
async def test_it_answers_as_the_checkpoint(
    name: str, settings: dict[str, Any], family, running: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = family(name)
    async with running(made, **settings) as engine:
        expected, info = await mixed_answers(engine, made), engine.info
    folder = await built(made, tmp_path, **settings)
    monkeypatch.setattr(quantized, "round_weight", None)
    async with running(made, model=str(folder)) as engine:
        assert await mixed_answers(engine, made) == expected
        found = engine.info
    assert (found.linears, found.parameters, found.digest) == (info.linears, info.parameters, info.digest)
    assert (found.dtype, found.quantization, found.weight_bytes) == (info.dtype, info.quantization, info.weight_bytes)
    assert found.id == "engine"
    assert read_model_info(folder).linears == info.linears  # adapters are checked against it where nothing runs


@pytest.mark.skipif(not multiplies_bfloat16(), reason="oneDNN has no bfloat16 on this processor")
async def test_what_onednn_packs_is_kept_as_it_was_and_packed_at_each_start(
    family, running: Running, tmp_path: Path
) -> None:
    made = family("qwen2")
    folder = await built(made, tmp_path, dtype="bfloat16")
    layouts = {each["layout"] for each in json.loads((folder / "engine.json").read_text())["modules"].values()}
    assert layouts == {"onednn", "tied"}
    async with running(made, model=str(made.base), dtype="bfloat16") as first:
        weights = {name: each.base for name, each in first._model.linears.items()}
    async with running(made, model=str(folder)) as engine:
        for name, linear in engine._model.linears.items():
            assert isinstance(linear.base, PackedLinear)
            assert torch.equal(linear.base.dense(0, linear.base.out_features), weights[name].dense(0, 10**6))


async def test_weights_are_mapped_and_begin_on_cache_lines(family, running: Running, directory: Path) -> None:
    async with running(family("llama"), model=str(directory), max_lora_rank=16) as engine:
        for linear in quantized_linears(engine._model.module):
            assert linear.few.laid.codes.data_ptr() % 64 == 0
        mapped = Path("/proc/self/maps")
        assert not mapped.exists() or str(directory / "engine.safetensors") in mapped.read_text()


@pytest.mark.parametrize(
    ("name", "method"),
    [("qwen2", "int4"), *(pytest.param(*each, marks=slow) for each in (("qwen2", "int8"), ("gpt2", "int4")))],
)
async def test_a_quantized_checkpoint_is_loaded_as_it_is(
    name: str, method: str, family, running: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, out = family(name), tmp_path / "quantized"
    done = produce.write_quantized(EngineConfig(str(made.base), quantization=method), out, tell)
    assert done.bytes < done.bytes_before
    async with running(made, quantization=method) as engine:
        expected, info = await mixed_answers(engine, made), engine.info
    monkeypatch.setattr(quantized, "round_weight", None)
    async with running(made, model=str(out)) as engine:
        assert await mixed_answers(engine, made) == expected
        assert (engine.info.quantization, engine.info.digest) == (method, info.digest)
    assert read_model_info(out).linears == read_model_info(made.base).linears
    other = "int4" if method == "int8" else "int8"
    with pytest.raises(ConfigInvalid, match=f"quantized with {method}"):
        await LocalEngine(EngineConfig(str(out), quantization=other)).start()
    with pytest.raises(ConfigInvalid, match="quantized already"):
        produce.write_quantized(EngineConfig(str(out), quantization=other), tmp_path / "again", tell)


async def test_fp8_weights_are_computed_on_a_cpu_with_the_values_that_they_mean(
    family, running: Running, tmp_path: Path
) -> None:
    made, out = family("llama"), tmp_path / "quantized"
    produce.write_quantized(EngineConfig(str(made.base), quantization="fp8"), out, tell)
    oracle = made.oracle("fp8")
    async with running(made, model=str(out)) as engine:
        assert engine.info.quantization == "none"
        for index in (None, 0, 2):
            said = await answer(engine, "x", prompts(1)[0], digest(made, index), GREEDY)
            assert said == oracle.greedy(prompts(1)[0], said, index)


async def test_what_is_wrong_with_a_directory_is_said_with_the_command_that_builds_it_again(
    family, directory: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(directory, tmp_path / "engine"))
    again = f"loradex build --export-dir {family('llama').base} --engine-dir {folder}"
    manifest = json.loads((folder / "engine.json").read_text())
    wrong: list[tuple[dict[str, Any], str]] = [
        (
            {"processor": {"machine": "arm64", "vectors": "NEON", "bfloat16": True, "layout": "x"}},
            "built for arm64 with NEON, with",
        ),
        ({"size": 1}, r"has \d+ bytes, not 1 "),
        ({"cache": {"0": {}}}, r"does not fit engine\.safetensors"),
        ({"aliases": {"model.norm.weight": "nothing.weight"}}, "`nothing.weight` is missing"),
    ]
    for change, message in wrong:
        (folder / "engine.json").write_text(json.dumps(manifest | change))
        with pytest.raises(ConfigInvalid, match=message) as refused:
            await LocalEngine(EngineConfig(str(folder))).start()
        assert again in refused.value.hint
    (folder / "engine.json").write_text("{")
    with pytest.raises(ConfigInvalid, match="cannot be read"):
        LocalEngine(EngineConfig(str(folder)))
    (folder / "engine.json").write_text('{"format": 99, "loradex": "9.9"}')
    with pytest.raises(ConfigInvalid, match=r"built by 9\.9, in another format"):
        LocalEngine(EngineConfig(str(folder)))


async def test_damaged_weights_are_found_by_the_self_check(directory: Path, tmp_path: Path) -> None:
    file = Path(shutil.copytree(directory, tmp_path / "engine")) / "engine.safetensors"
    codes = read_header(file).tensors["model.layers.1.mlp.down_proj.codes"]
    data = bytearray(file.read_bytes())
    data[codes.start : codes.end] = b"\x7f" * (codes.end - codes.start)
    file.write_bytes(data)
    with pytest.raises(ConfigInvalid, match="gives other logits"):
        await LocalEngine(EngineConfig(str(file.parent), threads=1, kv_cache_memory=1 << 22)).start()


def test_limits_bound_what_an_engine_is_asked(directory: Path) -> None:
    config = LocalEngine(EngineConfig(str(directory))).config
    assert (config.max_lora_rank, config.max_num_seqs, config.max_model_len) == (16, 2, 256)
    assert within(config) == config
    assert LocalEngine(EngineConfig(str(directory), max_num_seqs=1)).config.max_num_seqs == 1
    for given, message in (
        ({"max_num_seqs": 3}, "`max_num_seqs` is 3, and the engine"),
        ({"max_lora_rank": 128}, "`max_lora_rank` is 128"),
        ({"max_model_len": 300}, "`max_model_len` is 300"),
        ({"dtype": "bfloat16"}, "built with float32"),
        ({"quantization": "int4"}, "built with int8"),
    ):
        with pytest.raises(ConfigInvalid, match=message) as refused:
            LocalEngine(EngineConfig(str(directory), **given))
        assert "loradex build --export-dir" in refused.value.hint


async def test_nothing_else_is_overwritten_and_a_failed_build_leaves_nothing(family, tmp_path: Path) -> None:
    made = family("llama")
    with pytest.raises(ConfigInvalid, match="for CPUs"):
        await built(made, tmp_path, device="cuda")
    with pytest.raises(ConfigInvalid, match="neither a folder nor"):
        await built(made, tmp_path, model=str(tmp_path / "none"))
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "engine").mkdir()
    (tmp_path / "engine" / "mine").touch()
    with pytest.raises(Conflict, match=r"holds no engine\.json"):
        await built(made, tmp_path)
