"""Whether a model fits is known from its files, before any memory is taken."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import loradex
from loradex import LLM, errors
from loradex.engine.config import EngineConfig
from loradex.engine.local import engine as local
from loradex.engine.local import produce
from loradex.engine.local.checkpoint import read_model
from loradex.engine.local.engine import LocalEngine
from loradex.engine.local.quantized import quantized_linears
from loradex.engine.memory import available_memory, require_memory, weight_bytes

BASE = Path(loradex.__file__).parent / "assets" / "demo" / "base"
CONFIG = EngineConfig(model=str(BASE), kv_cache_memory=1 << 30)


async def test_what_weights_take_is_what_the_engine_then_holds() -> None:
    # The demo's head is its embedding; its linears and embedding are all but some norms.
    whole = weight_bytes(CONFIG, BASE)
    assert whole == pytest.approx((BASE / "model.safetensors").stat().st_size, rel=0.01)
    assert weight_bytes(replace(CONFIG, dtype="float32"), BASE) == pytest.approx(2 * whole, rel=0.01)
    for method in ("int8", "int4"):
        config = replace(CONFIG, quantization=method, kv_cache_memory=1 << 24)  # type: ignore[arg-type]
        engine = LocalEngine(config)
        await engine.start()
        info = engine.info
        await engine.stop()
        linears = sum(shape.in_features * shape.out_features for shape in info.linears.values())
        head = info.vocab_size * 192
        coded = info.weight_bytes - head * 1.02  # the head is quantized beside the embedding, which stays
        assert whole - weight_bytes(config, BASE) == pytest.approx(2 * linears - coded, rel=0.06)


@pytest.mark.parametrize("method", ["int8", "int4", "fp8"])
def test_codes_are_counted_as_they_are_kept_and_fp8_as_it_is_written_out(method: str, tmp_path: Path) -> None:
    out = tmp_path / "rounded"
    done = produce.write_quantized(replace(CONFIG, quantization=method), out, lambda *_: None)  # type: ignore[arg-type]
    config = replace(CONFIG, model=str(out))
    module, _ = read_model(config, out, torch.device("cpu"))
    held = sum(each.nbytes for each in (*module.parameters(), *quantized_linears(module)))
    # Codes of 4 bits lie one in a byte until the kernels lay them.
    assert weight_bytes(config, out) == pytest.approx(done.bytes if method == "int4" else held, rel=0.01)
    assert (weight_bytes(config, out) > 1.5 * done.bytes) is (method == "fp8")
    assert weight_bytes(replace(config, device="cuda:0"), out) == pytest.approx(done.bytes, rel=0.01)


def test_the_error_says_what_is_free_what_is_wanted_and_what_to_lower() -> None:
    require_memory(CONFIG, BASE, 2 << 30)
    require_memory(CONFIG, BASE, None)
    with pytest.raises(errors.MemoryShort, match=r"^Free memory \(0\.50 GiB\) < wanted \(1\.00 GiB\): ") as short:
        require_memory(CONFIG, BASE, 1 << 29)
    assert "1.00 GiB for keys and values" in str(short.value)
    size = int(short.value.hint.split("MiB")[0].rpartition(" ")[2])
    require_memory(replace(CONFIG, kv_cache_memory=size << 20), BASE, 1 << 29)
    with pytest.raises(errors.MemoryShort) as short:
        require_memory(CONFIG, BASE, 1000)
    assert "--quantization int4" in short.value.hint
    with pytest.raises(errors.MemoryShort) as short:
        require_memory(replace(CONFIG, quantization="int4"), BASE, 1000)
    assert "--quantization" not in short.value.hint


def test_nothing_is_loaded_where_it_does_not_fit_and_the_fix_is_an_argument(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "free_memory", lambda device: 1 << 25)
    monkeypatch.setattr(local.base_model, "load", lambda *_: pytest.fail("weights were read"))
    with pytest.raises(errors.MemoryShort) as short:
        LLM(BASE)
    assert '`kv_cache_memory="' in short.value.hint
    assert "--" not in short.value.hint


def test_this_machine_tells_its_memory() -> None:
    assert (available_memory() or 0) > 1 << 20
