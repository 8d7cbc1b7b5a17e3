from __future__ import annotations

from loradex.adapters.adapter import LoraLayer
from loradex.adapters.summary import Kind, kinds


def layer(module: str, rank: int, scaling: float, inputs: int = 8, outputs: int = 4) -> LoraLayer:
    return LoraLayer(module, rank, scaling, inputs, outputs, "a", "b")


def test_linears_are_counted_by_kind_and_shape() -> None:
    found = [layer("m.0.q", 4, 2.0), layer("m.1.q", 8, 1.0), layer("m.2.q", 4, 2.0, 16), layer("m.0.b", 4, 2.0)]
    assert kinds({each.module: each for each in found}) == (
        Kind("b", 1, 8, 4, (4,), (2.0,)),
        Kind("q", 2, 8, 4, (4, 8), (1.0, 2.0)),
        Kind("q", 1, 16, 4, (4,), (2.0,)),
    )
    assert kinds({}) == ()
