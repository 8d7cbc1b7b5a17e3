from __future__ import annotations

from dataclasses import replace

from loradex.bench.cost import Cost
from loradex.bench.floor import Floor
from loradex.bench.shape import CLASSES, SHAPES
from loradex.bench.workload import Request
from loradex.core.model import ModelInfo

QWEN = SHAPES["qwen2.5-0.5b"]
INFO = ModelInfo(
    "q", "q", "Qwen2ForCausalLM", "bfloat16", "cpu", QWEN.vocabulary, QWEN.positions, QWEN.linears(), "", True
)


def weights(kind: str, index: int = 0) -> int:
    chosen = CLASSES[kind]
    return sum(
        chosen.rank(index) * (shape.in_features + shape.out_features)
        for name, shape in QWEN.linears().items()
        if name.rpartition(".")[2] in chosen.modules
    )


def test_the_shape_is_that_of_the_model() -> None:
    cost = Cost.of(INFO)
    assert cost.linears * 2 == 715_653_120
    assert cost.head * 2 == 272_269_312
    assert cost.cached == 12_288
    assert QWEN.tensors()["model.layers.23.mlp.down_proj.weight"] == (896, 4864)


def test_the_order_of_the_linears_says_nothing() -> None:
    backwards = replace(INFO, linears=dict(reversed(INFO.linears.items())))
    assert Cost.of(backwards) == Cost.of(INFO)


def test_the_classes_have_their_sizes() -> None:
    assert weights("a-ref") == 549_888 * 16
    assert weights("a-small") == 135_168 * 8
    assert [weights("a-mix", i) // 549_888 for i in range(5)] == [8, 16, 32, 64, 8]


def test_an_adapter_is_read_once_however_many_rows_use_it() -> None:
    cost = Cost(100, 10, 2, 4, (7, 9))
    assert cost.step_bytes([None, None], 0) == 220
    assert cost.step_bytes([0, 0, 1, None], 5) == 2 * (110 + 16) + 20
    assert cost.step_flops([0, None]) == 2 * (117 + 110)


def test_floors_take_the_slower_of_bytes_and_operations() -> None:
    cost = Cost(100, 10, 2, 0, (8,))
    asked = [Request(0, None, (1, 2, 3), 3), Request(1, 0, (1,), 2)]
    assert cost.prefill_flops(asked) == 2 * (100 * 3 + 10) + 2 * (108 + 10)
    slow_memory, slow_cores = Floor(1.0, 1e9, "bfloat16"), Floor(1e9, 1.0, "bfloat16")
    assert cost.prefill_seconds(asked, slow_cores) == cost.prefill_flops(asked)
    # The second step has both, the third only the first.
    assert cost.decode_seconds(asked, slow_memory) == (220 + 16) + 220
    assert cost.decode_seconds(asked, slow_cores) == 2 * (110 + 118) + 2 * 110
    assert cost.decode_bytes(asked, 9) == (220 + 16) + 220
    assert cost.decode_bytes(asked, 1) == 220
