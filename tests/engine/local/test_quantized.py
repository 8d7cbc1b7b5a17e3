"""A quantized base answers as transformers with PEFT does on the values that its rounded weights mean."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from loradex.adapters.read import read_adapter
from loradex.core.mix import Mix
from loradex.engine.config import EngineConfig
from loradex.engine.local import quantized
from loradex.engine.local.engine import LocalEngine
from loradex.engine.local.plan import Chunk, StepPlan
from loradex.engine.local.quantized import QuantizedLinear, check_quantization, quantized_linears
from loradex.engine.local.sequence import Sequence
from loradex.errors import ConfigInvalid

from . import tiny
from .test_parity import digest, prompts
from .tiny import GREEDY, Family, Running, answer


def all_logits(engine: LocalEngine, made: Family, prompt: list[list[int]]) -> torch.Tensor:
    """Return the logits after each prompt, the i-th on adapter i - 1, the first on the base."""
    order = sorted(range(len(prompt)), key=lambda i: digest(made, i - 1 if i else None) or "")
    chunks = []
    for i in order:
        mix = Mix.of(digest(made, i - 1 if i else None))
        row = Sequence("x", prompt[i], len(prompt[i]), GREEDY, mix, blocks=list(range(3 * i, 3 * i + 3)))
        chunks.append(Chunk(row, 0, len(prompt[i]), samples=True))
    found = engine._loop._runner.logits(StepPlan(tuple(chunks))).cpu()  # the thread is idle: nothing was submitted
    return found[[order.index(i) for i in range(len(prompt))]]


@pytest.mark.parametrize(
    ("name", "method"),
    [
        *((name, "int8") for name in [*tiny.FAMILIES, *tiny.OTHERS]),
        *((name, "int4") for name in ("llama", "qwen2", "gemma2", "phi3", "gpt2")),
    ],
)
async def test_a_mixed_batch_on_a_quantized_base_is_that_of_peft_on_its_values(
    name: str, method: str, family, running: Running
) -> None:
    made = family(name)
    oracle = made.oracle(method)
    cases = [(tokens, [None, 0, 1, 2][i % 4]) for i, tokens in enumerate(prompts(8))]
    async with running(made, max_batched_tokens=128, quantization=method) as engine:
        model = engine._model.module
        assert all(linear.rounded is None for linear in quantized_linears(model))
        assert not any(type(each) is nn.Linear for each in model.modules())
        ours = all_logits(engine, made, [tokens for tokens, _ in cases[:4]])
        answers = await asyncio.gather(
            *(answer(engine, str(i), tokens, digest(made, a), GREEDY) for i, (tokens, a) in enumerate(cases))
        )
    theirs = torch.stack([oracle.logits(tokens, adapter)[-1] for tokens, adapter in cases[:4]])
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)
    plain = made.oracle().logits(*cases[0])[-1]
    assert (theirs[0] - plain).abs().max() > 1e-2  # rounding is seen, so that the comparison above is one
    for (tokens, adapter), said in zip(cases, answers, strict=True):
        assert said == oracle.greedy(tokens, said, adapter)


async def test_without_numba_a_quantized_base_is_slower_and_the_same(
    family, running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "numba.core.errors", None)
    made = family("qwen2")
    oracle = made.oracle("int4")
    async with running(made, quantization="int4") as engine:
        assert all(linear.rounded is not None for linear in quantized_linears(engine._model.module))
        said = await answer(engine, "x", prompts(1)[0], made.adapters[1].digest, GREEDY)
    assert said == oracle.greedy(prompts(1)[0], said, 1)


@pytest.mark.parametrize(("method", "bits"), [("int8", 8), ("int4", 4.5)])
async def test_the_engine_says_what_its_weights_take(method: str, bits: float, family, running: Running) -> None:
    made = family("llama")
    async with running(made, quantization=method) as engine:
        linears = quantized_linears(engine._model.module)
        info = engine.info
    head = 8 * tiny.VOCAB * 64 / 8
    others = sum(shape.in_features * shape.out_features for shape in info.linears.values()) * bits / 8
    scales = 4 * sum(each.out_features for each in linears if method == "int8" or each.out_features == tiny.VOCAB)
    assert info.quantization == method
    # Outputs are filled up to a multiple of 64.
    assert head + others + scales <= info.weight_bytes <= 1.5 * (head + others + scales)


async def test_a_bfloat16_base_in_int8_is_close_to_itself(tmp_path: Path, running: Running) -> None:
    base = tiny.save_base("qwen2", tmp_path / "base", dtype=torch.bfloat16)
    made = Family("qwen2", base, tuple(read_adapter(path) for path in tiny.save_adapters("qwen2", base, tmp_path)))
    oracle = made.oracle("int8")
    prompt = prompts(1)[0]
    async with running(made, quantization="int8") as engine:
        assert isinstance(engine._model.module.get_output_embeddings(), QuantizedLinear)
        assert type(engine._model.module.get_input_embeddings()) is nn.Embedding
        for index, adapter in [(None, None), *enumerate(made.adapters)]:
            said = await answer(engine, "x", prompt, adapter and adapter.digest, GREEDY)
            logits = oracle.logits([*prompt, *said[:-1]], index)[len(prompt) - 1 :]
            # The oracle computes in float32: what bfloat16 picks must be as good as the best, but for rounding.
            lost = logits.amax(dim=-1) - logits.gather(1, torch.tensor(said).unsqueeze(1)).squeeze(1)
            assert lost.max() < 0.05 * logits.abs().max()


async def test_fp8_weights_are_refused_where_no_card_computes_in_them(family) -> None:
    engine = LocalEngine(EngineConfig(model=str(family("llama").base), quantization="fp8", device="cpu"))
    with pytest.raises(ConfigInvalid, match="fp8 weights") as refused:
        await engine.start()
    assert "--quantization int8" in (refused.value.hint or "")


@pytest.mark.parametrize(
    ("method", "dtype", "found", "refused"),
    [
        ("fp8", torch.bfloat16, (8, 6), "compute capability 8.9; cuda has 8.6"),
        ("fp8", torch.bfloat16, (8, 9), None),
        ("fp8", torch.float16, (9, 0), "need bfloat16"),
        ("int4", torch.bfloat16, (7, 5), "compute capability 8.0"),
        ("int4", torch.bfloat16, (8, 0), None),
        ("int8", torch.float16, (7, 0), None),
    ],
)
def test_a_card_is_asked_what_it_can_do(
    method: str, dtype: torch.dtype, found: tuple[int, int], refused: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantized.torch.cuda, "get_device_capability", lambda device: found)
    if refused is None:
        check_quantization(method, dtype, torch.device("cuda"))
        return
    with pytest.raises(ConfigInvalid, match=refused):
        check_quantization(method, dtype, torch.device("cuda"))


async def test_a_checkpoint_that_is_quantized_already_is_refused_by_name(tmp_path: Path) -> None:
    base = tiny.save_base("llama", tmp_path / "base")
    config = base / "config.json"
    text = config.read_text("utf-8").rstrip().removesuffix("}")
    config.write_text(text + ', "quantization_config": {"quant_method": "gptq", "bits": 4}}', "utf-8")
    with pytest.raises(ConfigInvalid, match=r"quantized already \(gptq\)"):
        await LocalEngine(EngineConfig(model=str(base))).start()
