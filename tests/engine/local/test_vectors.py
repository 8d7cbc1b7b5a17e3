"""Sums of neighbouring products, by every processor's instruction; that of AVX-512 is compiled, and not run."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("numba")

from llvmlite import binding, ir
from numba import cfunc, types
from numba.extending import intrinsic

from loradex.engine.local import vectors
from loradex.engine.local.vectors import I16, I64, LANES, many, paired, read, write


def compiled() -> Any:
    @intrinsic
    def made(_: Any, x: Any, y: Any, z: Any) -> Any:
        def generate(c: Any, b: Any, s: Any, args: Any) -> Any:
            both = [b.bitcast(read(b, each, 0, ir.IntType(32)), many(I16, 2 * LANES)) for each in args[:2]]
            write(b, args[2], 0, paired(b, *both))
            return c.get_dummy_value()

        return types.void(*[types.int64] * 3), generate

    @cfunc(types.void(types.int64, types.int64, types.int64))
    def run(x: Any, y: Any, z: Any) -> None:
        made(x, y, z)

    return run


@pytest.mark.parametrize("features", [None, {}])
def test_neighbouring_products_are_added(features: dict[str, bool] | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if features is not None:
        monkeypatch.setattr(vectors, "_FEATURES", features)
    random = np.random.default_rng(1)
    x, y = random.integers(-(2**15), 2**15, (2, 2 * LANES), np.int16)
    sums = np.zeros(LANES, np.int32)
    compiled().ctypes(x.ctypes.data, y.ctypes.data, sums.ctypes.data)
    exact = (x.astype(np.int64) * y).reshape(LANES, 2).sum(axis=1)
    assert (sums == exact.astype(np.int32)).all()


def test_avx512_has_one_instruction_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    if not binding.get_default_triple().startswith("x86_64"):
        pytest.skip("needs LLVM's own x86")
    monkeypatch.setattr(vectors, "_FEATURES", {"avx512bw": True})
    module = ir.Module()
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [I64] * 3), "run")
    b = ir.IRBuilder(function.append_basic_block())
    both = [b.bitcast(read(b, each, 0, ir.IntType(32)), many(I16, 2 * LANES)) for each in function.args[:2]]
    write(b, function.args[2], 0, paired(b, *both))
    b.ret_void()
    target = binding.Target.from_default_triple().create_target_machine(cpu="icelake-server")
    made = target.emit_assembly(binding.parse_assembly(str(module)))
    assert made.count("vpmaddwd") == 1
    assert "zmm" in made
