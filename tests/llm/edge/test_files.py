"""The JSON of TensorRT-Edge-LLM, in and out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from loradex.core.prompt import ChatPrompt
from loradex.errors import FilesNotFound, InvalidRequest, LoradexError, Unsupported
from loradex.llm.edge.answering import Answered
from loradex.llm.edge.input_file import InputFile, Options, read_input
from loradex.llm.edge.output_file import output_json
from loradex.llm.edge.request import Refused, Request
from loradex.llm.output import CompletionOutput, Logprob, RequestMetrics, RequestOutput

HELLO = {"messages": [{"role": "user", "content": "Hello"}]}


def read(tmp_path: Path, data: Any, **options: Any) -> InputFile:
    path = tmp_path / "in.json"
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    return read_input(path, Options(**options))


def one(tmp_path: Path, request: Any, **common: Any) -> Request | Refused:
    adapters = {"a": "x", "b": "y"}
    [found] = read(tmp_path, {"available_lora_weights": adapters, **common, "requests": [request]}).requests
    return found


def test_what_a_file_does_not_say_has_their_defaults(tmp_path: Path) -> None:
    file = read(tmp_path, {"requests": [HELLO]})
    [request] = file.requests
    assert isinstance(request, Request)
    assert (file.batch_size, file.adapters, file.notes) == (1, {}, ())
    params = request.params
    assert (params.temperature, params.top_p, params.top_k, params.max_tokens) == (1.0, 0.8, 50, 256)
    assert (params.logprobs, params.logit_bias, params.stop, request.adapter) == (None, {}, None, None)
    assert isinstance(request.prompt, ChatPrompt)
    assert request.prompt.add_generation_prompt
    assert request.prompt.template_kwargs == {"enable_thinking": False}


def test_every_field_arrives(tmp_path: Path) -> None:
    common = {
        **{"temperature": 0, "top_p": 0.5, "top_k": 3, "max_generate_length": 7, "num_logprobs": 2},
        **{"logit_bias": {"5": -3.5}, "enable_thinking": True, "add_generation_prompt": False},
    }
    request = one(tmp_path, HELLO | {"lora_name": "a", "stop": ["x", "y"], "num_logprobs": 4}, **common)
    assert isinstance(request, Request)
    params = request.params
    assert (params.temperature, params.top_p, params.top_k, params.max_tokens) == (0, 0.5, 3, 7)
    assert (params.logprobs, params.logit_bias, params.stop, request.adapter) == (4, {5: -3.5}, ("x", "y"), "a")
    assert isinstance(request.prompt, ChatPrompt)
    assert not request.prompt.add_generation_prompt
    assert request.prompt.template_kwargs == {"enable_thinking": True}
    own = one(tmp_path, HELLO | {"logit_bias": {"6": 1}, "stop": "x", "lora_name": ""}, **common)
    assert isinstance(own, Request)
    assert (own.params.logit_bias, own.params.stop, own.adapter) == ({6: 1.0}, "x", None)
    plain = one(tmp_path, HELLO, apply_chat_template=False)
    assert isinstance(plain, Request)
    assert plain.prompt == "Hello"


def test_the_command_line_wins_and_one_adapter_answers_who_names_none(tmp_path: Path) -> None:
    data = {"batch_size": 3, "max_generate_length": 9, "requests": [HELLO, HELLO | {"lora_name": None}]}
    file = read(tmp_path, data, adapters={"m": "p"}, batch_size=2, max_generate_length=4, num_logprobs=1)
    assert (file.batch_size, file.adapters) == (2, {"m": "p"})
    named, base = file.requests
    assert isinstance(named, Request)
    assert isinstance(base, Request)
    assert (named.adapter, base.adapter) == ("m", None)
    assert (named.params.max_tokens, named.params.logprobs) == (4, 1)
    several = read(tmp_path, data, adapters={"m": "p", "n": "q"})
    assert [each.adapter for each in several.requests if isinstance(each, Request)] == [None, None]
    assert several.notes == ("2 requests name no adapter (`lora_name`) and are answered by the base",)


def test_a_system_prompt_is_a_system_message_unless_strict(tmp_path: Path) -> None:
    data = {"requests": [HELLO | {"system_prompt": "Be brief.", "reference": "x"}], "streaming": {"enable": True}}
    file = read(tmp_path, data)
    assert [turn.role for turn in file.requests[0].turns] == ["system", "user"]
    assert file.notes == ("fields without effect: streaming", "unknown fields, which are not read: reference")
    strict = read(tmp_path, data, strict=True)
    assert [turn.role for turn in strict.requests[0].turns] == ["user"]
    assert "`system_prompt` is not read" in strict.notes[-1]


WRONG: list[tuple[Any, type[LoradexError], str]] = [
    (7, InvalidRequest, "Each request must be an object with 'messages' key"),
    ({"prompt": "x"}, InvalidRequest, "Each request must be an object with 'messages' key"),
    ({"messages": {}}, InvalidRequest, "Each request object must contain a 'messages' array"),
    ({"messages": ["x"]}, InvalidRequest, "A message is 'x'"),
    ({"messages": HELLO["messages"] * 65}, InvalidRequest, "There are 65 messages; at most 64"),
    ({"messages": [{"role": "user", "content": "x" * 131073}]}, InvalidRequest, "longer than 131072 bytes"),
    ({"messages": [{"role": "user", "content": [{"type": "image", "image": "a"}]}]}, Unsupported, "of type 'image'"),
    (HELLO | {"lora_name": "c"}, InvalidRequest, "LoRA name 'c' not found in available_lora_weights"),
    (HELLO | {"lora_name": 3}, InvalidRequest, "`lora_name` is 3"),
    (HELLO | {"lora_name": "broken"}, InvalidRequest, "LoRA weight path for 'broken' must be a string"),
    (HELLO | {"num_logprobs": 51}, InvalidRequest, "logprobs is 51"),
    (HELLO | {"stop": [1]}, InvalidRequest, "`stop` holds 1"),
    (HELLO | {"logit_bias": {"x": 1}}, InvalidRequest, "`logit_bias` is none"),
]


@pytest.mark.parametrize(("request_", "kind", "message"), WRONG)
def test_a_wrong_request_fails_alone_and_the_file_under_strict(
    request_: Any, kind: type[LoradexError], message: str, tmp_path: Path
) -> None:
    data = {"available_lora_weights": {"a": "x", "broken": 3}, "requests": [HELLO, request_, HELLO]}
    first, refused, last = read(tmp_path, data).requests
    assert isinstance(first, Request)
    assert isinstance(last, Request)
    assert isinstance(refused, Refused)
    assert isinstance(refused.error, kind)
    assert message in refused.error.message
    with pytest.raises(LoradexError):
        read(tmp_path, data, strict=True)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({}, "'requests' array not found in input file"),
        ([], "'requests' array not found in input file"),
        ("{", "is not JSON"),
        ({"requests": [], "batch_size": 0}, r"Invalid batch_size value: 0 \(must be positive\)"),
        ({"requests": [], "batch_size": "x"}, "`batch_size` is 'x'"),
        ({"requests": [], "available_lora_weights": []}, None),
        ({"requests": [], "available_lora_weights": [1]}, "is no object"),
    ],
)
def test_a_file_that_is_wrong_as_a_whole_is_refused(data: Any, message: str | None, tmp_path: Path) -> None:
    if message is None:
        assert read(tmp_path, data).requests == ()
        return
    with pytest.raises(InvalidRequest, match=message):
        read(tmp_path, data)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FilesNotFound, match=r"none\.json cannot be read"):
        read_input(tmp_path / "none.json", Options())


def test_strict_refuses_a_mixed_batch_in_their_words(tmp_path: Path) -> None:
    requests = [HELLO | {"lora_name": name} for name in ("a", "a", "b", "b")]
    data = {"batch_size": 2, "available_lora_weights": {"a": "x", "b": "y"}, "requests": requests}
    assert len(read(tmp_path, data, strict=True).requests) == 4
    with pytest.raises(InvalidRequest, match="Different LoRA weights within the same batch are not supported"):
        read(tmp_path, data | {"batch_size": 3}, strict=True)
    with pytest.raises(InvalidRequest, match="Invalid batch_size value: 17"):
        read(tmp_path, data | {"batch_size": 17}, strict=True)


def test_paths_are_relative_to_here_or_to_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "beside").mkdir()
    monkeypatch.chdir(tmp_path.parent)
    file = read(tmp_path, {"available_lora_weights": {"a": "beside", "b": "nowhere"}, "requests": []})
    assert file.adapters == {"a": str(tmp_path / "beside"), "b": "nowhere"}


def answered(request: Request | Refused, reason: Any, stop: int | str | None = None) -> Answered:
    logprobs = [{3: Logprob(-0.2, 2, "é"), 1: Logprob(-0.1, 1, "a"), 9: Logprob(-5.0, None, "z")}]
    answer = CompletionOutput(0, "text", [9], logprobs=logprobs, finish_reason=reason, stop_reason=stop)
    output = RequestOutput("0", "<user>Hello", [1], [answer], None, "medical@1", RequestMetrics(0.0))
    return Answered(request, output, system="<system>")


def test_the_output_has_their_fields_and_reasons(tmp_path: Path) -> None:
    data = {"batch_size": 2, "requests": [HELLO, HELLO, HELLO, {"messages": 1}]}
    file = read(tmp_path, data)
    [one, two, three, wrong] = file.requests
    assert isinstance(wrong, Refused)
    answers = (
        answered(one, "stop"),
        answered(two, "stop", "."),
        answered(three, "length"),
        Answered(wrong, error=wrong.error),
    )
    written = output_json(file, answers, strict=True)
    assert written["input_file"] == str(tmp_path / "in.json")
    first, second, third, failed = written["responses"]
    assert first == {
        "output_text": "text",
        "request_idx": 0,
        "batch_idx": 0,
        "finish_reason": "end-of-sequence",
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Hello"}]}],
        "formatted_system_prompt": "<system>",
        "formatted_complete_request": "<user>Hello",
        "logprobs": [
            [
                {"token_id": 1, "token": "a", "bytes": [97], "logprob": -0.1},
                {"token_id": 3, "token": "é", "bytes": [195, 169], "logprob": -0.2},
            ]
        ],
    }
    assert (second["finish_reason"], second["batch_idx"], third["finish_reason"]) == ("stop-words", 1, "max-length")
    assert (third["request_idx"], third["batch_idx"]) == (2, 0)
    assert (failed["finish_reason"], failed["messages"]) == ("error", [])
    assert failed["output_text"] == "TensorRT Edge LLM cannot handle this request. Fails."
    ours = output_json(file, answers, strict=False)["responses"]
    assert ours[0]["adapter"] == "medical@1"
    assert ours[3]["output_text"] == "Each request object must contain a 'messages' array"
    assert ours[3]["error"]["code"] == "invalid_request"
