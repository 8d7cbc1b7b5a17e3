"""The output file of TensorRT-Edge-LLM."""

from __future__ import annotations

from typing import Any

from loradex.errors import LoradexError
from loradex.llm.edge.answering import Answered
from loradex.llm.edge.input_file import InputFile
from loradex.llm.output import CompletionOutput, Logprob

_FAILED = "TensorRT Edge LLM cannot handle this request. Fails."
"""What their runner says whatever was wrong."""


def output_json(file: InputFile, answers: tuple[Answered, ...], *, strict: bool) -> dict[str, Any]:
    """Return the output in their fields; without `strict` with `adapter` and `error` beside them."""
    responses = [_response(number, file.batch_size, each, strict=strict) for number, each in enumerate(answers)]
    return {"input_file": file.name, "responses": responses}


def _response(number: int, batch: int, answered: Answered, *, strict: bool) -> dict[str, Any]:
    output, error = answered.output, answered.error
    place = {"request_idx": number, "batch_idx": number % batch}
    turns = answered.request.turns
    messages = [{"role": turn.role, "content": [{"type": "text", "text": turn.content}]} for turn in turns]
    if output is None:
        said = {"output_text": _FAILED if strict else _wrong(error), **place, "finish_reason": "error"}
        more = {} if strict or error is None else {"error": {"code": error.code, "hint": error.hint}}
        return {**said, "messages": messages, "formatted_system_prompt": "", "formatted_complete_request": "", **more}
    [answer] = output.outputs
    response = {
        "output_text": answer.text,
        **place,
        "finish_reason": _reason(answer),
        "messages": messages,
        "formatted_system_prompt": answered.system,
        "formatted_complete_request": output.prompt or "",
    }
    if answer.logprobs is not None:
        response["logprobs"] = [_alternatives(each) for each in answer.logprobs]
    return response if strict else response | {"adapter": output.adapter}


def _wrong(error: LoradexError | None) -> str:
    return _FAILED if error is None else error.message


def _reason(answer: CompletionOutput) -> str:
    if answer.finish_reason == "stop":
        return "stop-words" if isinstance(answer.stop_reason, str) else "end-of-sequence"
    return {"length": "max-length", "abort": "cancelled"}.get(str(answer.finish_reason), "not-finished")


def _alternatives(token: dict[int, Logprob]) -> list[dict[str, Any]]:
    """Return the likeliest tokens, best first; the chosen one stands among them only if it is one."""
    ranked = sorted((each.rank, number, each) for number, each in token.items() if each.rank is not None)
    return [
        {
            "token_id": number,
            "token": each.decoded_token,
            "bytes": list(each.decoded_token.encode("utf-8", "replace")),
            "logprob": each.logprob,
        }
        for _, number, each in ranked
    ]
