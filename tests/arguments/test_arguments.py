"""Arguments of three systems, and what they mean here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from loradex import errors
from loradex.arguments.arguments import as_settings
from loradex.arguments.cache_config import PeftCacheConfig
from loradex.arguments.lora_config import LoraConfig
from loradex.arguments.quant_config import QuantAlgo, QuantConfig
from loradex.engine.config import EngineConfig
from loradex.llm.lora_request import LoRARequest
from loradex.llm.sampling_params import SamplingParams
from loradex.service import memory
from loradex.service.memory import with_memory
from loradex.service.promised import check_modules
from loradex.settings import Settings


def read(**arguments: Any) -> Any:
    return Settings.read({"engine.model": "base"} | as_settings(arguments, "base"), environ={})


def test_the_words_of_each_system_mean_the_same_settings() -> None:
    ours = read(max_num_seqs=3, max_batched_tokens=99, max_model_len=64, dtype="float16", max_loras=4)
    vllm = read(max_num_seqs=3, max_num_batched_tokens=99, max_model_len=64, dtype="half", max_loras=4, max_cpu_loras=8)
    tensorrt = read(
        max_batch_size=3,
        max_num_tokens=99,
        max_seq_len=64,
        dtype="torch.float16",
        lora_config=LoraConfig(max_loras=4, max_cpu_loras=4),
        tensor_parallel_size=1,
        backend="pytorch",
    )
    assert ours.engine == vllm.engine == tensorrt.engine
    assert (ours.engine.max_num_seqs, ours.engine.dtype, ours.engine.max_loras) == (3, "float16", 4)


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"max_lora_ranks": 8}, errors.ConfigInvalid, "max_lora_rank"),
        ({"max_loras": 0}, errors.ConfigInvalid, "max_loras"),
        ({"max_loras": 4, "max_cpu_loras": 2}, errors.ConfigInvalid, "max_cpu_loras=4"),
        ({"max_loras": 4, "lora_config": LoraConfig(max_loras=2)}, errors.ConfigInvalid, "one place"),
        ({"tensor_parallel_size": 2}, errors.Unsupported, "Leave `tensor_parallel_size` out"),
        ({"quant_config": QuantConfig(QuantAlgo.W4A16_AWQ)}, errors.Unsupported, "INT8"),
        ({"quant_config": QuantConfig(kv_cache_quant_algo=QuantAlgo.INT8)}, errors.Unsupported, "FP8"),
        ({"dtype": "float8"}, errors.ConfigInvalid, "engine.dtype"),
    ],
)
def test_what_is_not_so_is_refused_with_its_fix(
    arguments: dict[str, Any], error: type[errors.LoradexError], said: str
) -> None:
    with pytest.raises(error) as refused:
        read(**arguments)
    assert said in f"{refused.value} {refused.value.hint}"


def test_on_a_cpu_the_host_cache_bounds_adapters_and_utilization_has_no_effect() -> None:
    cache = PeftCacheConfig(host_cache_size=4096, device_cache_percent=0.1)
    both = read(device="cpu", peft_cache_config=cache, gpu_memory_utilization=0.9)
    assert with_memory(both) == replace(both, adapter_memory=4096)
    tenth, half = (
        with_memory(read(device="cpu", peft_cache_config=PeftCacheConfig(device_cache_percent=share)))
        for share in (0.1, 0.5)
    )
    assert half.adapter_memory == pytest.approx(5 * tenth.adapter_memory)
    with pytest.raises(errors.ConfigInvalid, match="gpu_memory_utilization"):
        with_memory(read(gpu_memory_utilization=1.5))


class Card:
    """Stands in for the engine's modules of a card with 8 GiB, 7 of them free; this machine has none."""

    def card_memory(self, device: str) -> tuple[int, int]:
        return 7 << 30, 8 << 30

    def find(self, model: str, revision: str | None) -> Path:
        return Path(model)


def test_shares_of_a_card_become_bytes_and_what_cannot_fit_is_refused_before_it_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "engine_part", lambda engine, part: Card())
    monkeypatch.setattr(memory, "weight_bytes", lambda config, folder: 2 << 30)
    cache = PeftCacheConfig(host_cache_size=4096, device_cache_percent=0.5)
    found = with_memory(read(peft_cache_config=cache))
    assert (found.adapter_memory, found.adapter_host_memory) == (7 << 29, 4096)
    engine = EngineConfig(model=str(tmp_path))
    settings = Settings(engine, adapter_memory=1 << 30)
    # Half of 8 GiB, less the one that others hold and 1/16 of what is left, is no room for weights and adapters.
    said = r"\(2\.81 GiB\) < wanted \(3\.00 GiB\): 2\.00 GiB for weights"
    with pytest.raises(errors.MemoryShort, match=said) as short:
        with_memory(replace(settings, gpu_memory_utilization=0.5))
    assert "`--gpu-memory-utilization` gives that much of the 7.00 GiB that are free. Raise it" in short.value.hint
    with monkeypatch.context() as patch:
        patch.setattr(memory, "weight_bytes", lambda config, folder: 9 << 30)
        with pytest.raises(errors.MemoryShort) as short:
            with_memory(replace(settings, gpu_memory_utilization=1.0))
    assert "Free some of the card's memory" in short.value.hint
    left = (7 << 30) - (7 << 26) - (3 << 30)
    assert with_memory(replace(settings, gpu_memory_utilization=1.0)).engine.kv_cache_memory == left


def test_module_names_are_those_of_tensorrt_llm_of_the_mapping_or_of_the_base() -> None:
    linears = ["model.layers.0.self_attn.q_proj", "model.layers.0.mlp.down_proj"]
    named = LoraConfig(
        lora_target_modules=["attn_q", "down_proj", "mine"], trtllm_modules_to_hf_modules={"mine": "q_proj"}
    )
    check_modules(named.target_modules, linears)
    with pytest.raises(errors.ConfigInvalid) as refused:
        check_modules(LoraConfig(lora_target_modules=["attn_w"]).target_modules, linears)
    assert "attn_" in refused.value.hint


@pytest.mark.parametrize(
    "wrong",
    [("two words", 1, "p"), ("a", -1, "p"), ("a", True, "p"), ("a", 0, "p", "gguf")],
)
def test_a_request_that_is_none_is_refused_where_it_is_made(wrong: tuple[Any, ...]) -> None:
    with pytest.raises(errors.InvalidRequest):
        LoRARequest(*wrong)


@pytest.mark.parametrize("name", ["use_beam_search", "allowed_token_ids", "bad_words"])
def test_parameters_that_are_not_offered_are_refused_not_ignored(name: str) -> None:
    with pytest.raises(errors.Unsupported, match=name):
        SamplingParams(**{name: 1})


def test_parameters_become_those_of_the_engine() -> None:
    sampling = SamplingParams(stop="end", top_k=5, end_id=7, include_stop_str_in_output=True).sampling(seed=3)
    assert (sampling.stop, sampling.top_k, sampling.stop_token_ids, sampling.seed) == (("end",), 5, (7,), 3)
    assert (sampling.temperature, sampling.max_tokens, sampling.include_stop) == (1.0, 16, True)
    assert SamplingParams(temperature=1.0, stop="end").given == {"max_tokens", "temperature", "stop"}
    assert SamplingParams(seed=9).sampling(seed=3).seed == 9
    with pytest.raises(errors.InvalidRequest, match="top_p"):
        SamplingParams(top_p=2)
