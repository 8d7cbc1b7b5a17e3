"""LLM on the demo model and the real engine: what the two reference pages do, and what must not go wrong beside it."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import CancelledError
from pathlib import Path

import pytest
from pydantic import BaseModel, Field

import loradex
from loradex import (
    LLM,
    GuidedDecodingParams,
    LoraConfig,
    LoRARequest,
    PeftCacheConfig,
    QuantAlgo,
    QuantConfig,
    SamplingParams,
    StructuredOutputsParams,
    errors,
)

DEMO = Path(loradex.__file__).parent / "assets" / "demo"
BASE = str(DEMO / "base")
QUESTIONS = json.loads((DEMO / "questions.json").read_text())["domains"]
GREEDY = SamplingParams(temperature=0, max_tokens=48)
SMALL = {"kv_cache_memory": 1 << 24}


def adapter(name: str, number: int = 0, folder: str = "") -> LoRARequest:
    return LoRARequest(name, number, str(DEMO / "adapters" / (folder or name)))


def question(domain: str) -> tuple[list[dict[str, str]], str]:
    """A conversation, and what the domain's expert was taught to answer."""
    asked = QUESTIONS[domain][0]
    return [{"role": "user", "content": asked["question"]}], asked["expected"][domain]


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    with LLM(BASE, enable_lora=True, max_loras=2, max_lora_rank=16, **SMALL) as made:
        yield made


def test_one_batch_of_three_adapters_and_the_base_is_answered_in_order(llm: LLM) -> None:
    domains = ["medical", "legal", "technical"]
    chats, expected = zip(*map(question, domains), strict=True)
    requests = [adapter(name, number) for number, name in enumerate(domains)]
    # Three adapters, two places: one waits for its turn.
    outputs = llm.chat([*chats, chats[0]], GREEDY, lora_request=[*requests, None])
    assert [output.outputs[0].text for output in outputs[:3]] == list(expected)
    assert [output.adapter for output in outputs] == ["medical@1", "legal@1", "technical@1", "base"]
    assert outputs[3].outputs[0].text != expected[0]
    assert [output.lora_request for output in outputs] == [*requests, None]
    assert all(output.finished and output.outputs[0].finish_reason == "stop" for output in outputs)


def test_the_prompt_is_scored_token_by_token_with_ranks(llm: LLM) -> None:
    plain, scored = llm.generate(
        ["What is a lease?"] * 2, [GREEDY, SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=2)]
    )
    assert plain.prompt_logprobs is None
    first, *others = scored.prompt_logprobs or ()
    assert first is None
    for token, each in zip(scored.prompt_token_ids[1:], others, strict=True):
        assert each is not None
        assert each[token].rank in range(1, 2049)
        assert {alternative.rank for alternative in each.values()} >= {1, 2}


def test_the_same_name_with_a_new_path_is_a_new_version_and_nothing_is_read_twice(
    llm: LLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat, first = question("medical")
    added: list[str] = []
    add = llm._service.adapters.add
    monkeypatch.setattr(
        llm._service.adapters, "add", lambda name, source, **how: added.append(source) or add(name, source, **how)
    )
    old, new = adapter("doctor", folder="medical"), adapter("doctor", folder="medical-v2")
    for _ in range(2):
        outputs = llm.chat([chat, chat, chat], GREEDY, lora_request=[old, new, old])
        assert [output.adapter for output in outputs] == ["doctor@1", "doctor@2", "doctor@1"]
        texts = [output.outputs[0].text for output in outputs]
        assert texts[0] == texts[2] == first != texts[1]
    assert added == [old.path, new.path]


def test_new_content_at_an_old_path_is_a_new_version(llm: LLM, tmp_path: Path) -> None:
    chat, _ = question("medical")
    shutil.copytree(DEMO / "adapters" / "medical", tmp_path / "run")
    request = LoRARequest("run", 0, str(tmp_path / "run"))
    [first] = llm.chat(chat, GREEDY, lora_request=request)
    shutil.copytree(DEMO / "adapters" / "medical-v2", tmp_path / "run", dirs_exist_ok=True)
    [second] = llm.chat(chat, GREEDY, lora_request=request)
    assert (first.adapter, second.adapter) == ("run@1", "run@2")
    assert first.outputs[0].text != second.outputs[0].text


def test_outputs_have_the_attributes_of_both_systems(llm: LLM) -> None:
    params = SamplingParams(n=2, temperature=0.8, seed=1, max_tokens=4, logprobs=2, ignore_eos=True)
    [output] = llm.generate("Hello", params)
    assert output.prompt == "Hello"
    assert output.outputs[0].token_ids != output.outputs[1].token_ids
    for index, answer in enumerate(output.outputs):
        assert (answer.index, answer.length, answer.finish_reason, answer.stop_reason) == (index, 4, "length", None)
        assert answer.logprobs is not None
        chosen = [alternatives[token] for token, alternatives in zip(answer.token_ids, answer.logprobs, strict=True)]
        assert answer.cumulative_logprob == pytest.approx(sum(each.logprob for each in chosen))
        for alternatives in answer.logprobs:
            ranked = sorted((each for each in alternatives.values() if each.rank), key=lambda each: each.rank or 0)
            assert [each.rank for each in ranked] == [1, 2]
            assert ranked[0].logprob >= ranked[1].logprob
    [again] = llm.generate({"prompt_token_ids": output.prompt_token_ids}, params)
    assert again.prompt is None
    assert [each.token_ids for each in again.outputs] == [each.token_ids for each in output.outputs]
    assert int(again.request_id) > int(output.request_id)


def test_streams_grow_to_what_the_whole_answer_is(llm: LLM) -> None:
    chat, expected = question("legal")
    pieces = list(llm.chat_async(chat, GREEDY, adapter("legal"), streaming=True))
    assert len(pieces) > 3
    assert "".join(piece.outputs[0].text_diff for piece in pieces) == pieces[-1].outputs[0].text == expected
    tokens = [token for piece in pieces for token in piece.outputs[0].token_ids_diff]
    assert tokens == pieces[-1].outputs[0].token_ids
    assert [piece.finished for piece in pieces] == [False] * (len(pieces) - 1) + [True]


async def test_prompts_are_awaited_and_streamed_in_any_event_loop(llm: LLM) -> None:
    chats, expected = zip(*map(question, ("medical", "legal")), strict=True)
    both = [llm.chat_async(chat, GREEDY, adapter(name)) for chat, name in zip(chats, ("medical", "legal"), strict=True)]
    assert [output.outputs[0].text for output in await asyncio.gather(*both)] == list(expected)
    assert [piece.outputs[0].text async for piece in both[0]] == [expected[0]]
    text = ""
    async for piece in llm.chat_async(chats[0], GREEDY, adapter("medical"), streaming=True):
        text += piece.outputs[0].text_diff
    assert text == expected[0]


def test_an_aborted_stream_ends_and_frees_its_place(llm: LLM) -> None:
    generation = llm.generate_async("Hello", SamplingParams(max_tokens=None, ignore_eos=True), streaming=True)
    pieces = 0
    for _ in generation:
        pieces += 1
        generation.abort()
    assert 1 <= pieces < 50
    with pytest.raises(CancelledError):
        generation.result()
    assert llm.generate("Hello", GREEDY)[0].finished


@pytest.mark.parametrize(
    ("request_", "error", "fix"),
    [
        (LoRARequest("lost", 1, "/no/such/folder"), errors.FilesNotFound, "adapter_config.json"),
        (LoRARequest("never-given", 1), errors.ModelNotFound, ""),
        (LoRARequest("base", 1, str(DEMO / "adapters" / "medical")), errors.Conflict, "another name"),
        ([adapter("medical")], errors.InvalidRequest, "one for each"),
    ],
)
def test_a_wrong_request_is_refused_with_its_fix_before_anything_is_computed(
    llm: LLM, request_: object, error: type[errors.LoradexError], fix: str
) -> None:
    with pytest.raises(error) as refused:
        llm.generate(["Hello", "Hello"], GREEDY, lora_request=request_)  # type: ignore[arg-type]
    assert fix in refused.value.hint


def test_a_prompt_beyond_the_context_names_the_argument_and_the_prompt(llm: LLM) -> None:
    with pytest.raises(errors.ContextLengthExceeded) as refused:
        llm.generate(["Hello", "Hello " * 5000], GREEDY)
    assert "`max_model_len`" in refused.value.hint
    assert "one of 2" in refused.value.__notes__[0]


def test_limits_are_those_that_were_given_and_name_the_argument_to_raise() -> None:
    cache = PeftCacheConfig(host_cache_size=1000, device_cache_percent=0.1)
    with LLM(BASE, lora_config=LoraConfig(max_lora_rank=64, max_loras=1), peft_cache_config=cache, **SMALL) as llm:
        with pytest.raises(errors.AdapterTooLarge) as refused:
            llm.generate("Hello", GREEDY, lora_request=adapter("medical"))
        assert '`adapter_memory="' in refused.value.hint
        llm.shutdown()
        with pytest.raises(errors.EngineStopped):
            llm.generate("Hello")


def test_an_adapter_of_the_configuration_is_checked_when_the_llm_is_made() -> None:
    with pytest.raises(errors.AdapterInvalid) as refused:
        LLM(BASE, lora_config=LoraConfig(lora_dir=[str(DEMO / "adapters" / "medical")], max_lora_rank=1), **SMALL)
    assert "max_lora_rank=" in str(refused.value)
    assert "--" not in str(refused.value)


def test_a_quantized_base_answers_under_adapters_too() -> None:
    chat, _ = question("medical")
    with LLM(BASE, quant_config=QuantConfig(QuantAlgo.INT8, QuantAlgo.FP8), dtype="half", **SMALL) as llm:
        [output] = llm.chat(chat, GREEDY, lora_request=adapter("medical"))
        assert (output.adapter, output.finished) == ("medical@1", True)
        info = llm._service.info
        assert (info.quantization, info.kv_cache_dtype, info.dtype) == ("int8", "fp8", "float16")


EXIT = """
import sys
from loradex import LLM, LoRARequest, SamplingParams
llm = LLM(sys.argv[1], kv_cache_memory=1 << 24)
running = llm.generate_async("Hello", SamplingParams(max_tokens=None, ignore_eos=True))
print(llm.generate("Hello", lora_request=LoRARequest("medical", 0, sys.argv[2]))[0].adapter)
"""


def test_a_program_that_does_not_shut_down_ends_cleanly_and_leaves_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-c", EXIT, BASE, str(DEMO / "adapters" / "medical")]
    environ = {"TMPDIR": str(tmp_path), "PYTHONPATH": ":".join(sys.path), "HF_HUB_OFFLINE": "1", "HOME": str(tmp_path)}
    ran = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=120, check=False)
    assert (ran.returncode, ran.stdout) == (0, "medical@1\n"), ran.stderr
    assert not [word for word in ("Traceback", "leaked") if word in ran.stderr], ran.stderr
    assert list(tmp_path.glob("loradex-*")) == []


class Advice(BaseModel):
    topic: str = Field(max_length=12)
    urgent: bool


def test_answers_keep_to_the_form_that_each_prompt_asks_for(llm: LLM) -> None:
    chat, expected = question("medical")
    forms = [StructuredOutputsParams(json=Advice), None, {"choice": ["yes", "no"]}]
    params = [SamplingParams(temperature=0, max_tokens=64, structured_outputs=each) for each in forms]
    outputs = llm.chat([chat] * 3, params, lora_request=adapter("medical"))
    json_text, free, choice = (output.outputs[0].text for output in outputs)
    assert isinstance(Advice.model_validate_json(json_text), Advice)
    assert free == expected
    assert choice in ("yes", "no")
    [older] = llm.chat(chat, SamplingParams(guided_decoding=GuidedDecodingParams(regex="[0-9]{2}")))
    assert older.outputs[0].text.isdigit()
    with pytest.raises(errors.InvalidRequest, match="guided_decoding"):
        SamplingParams(guided_decoding=5)  # type: ignore[arg-type]
