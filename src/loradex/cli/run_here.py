"""`loradex run --engine-dir`: one question, answered in this process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from loradex.cli.output import Output
from loradex.core.adapter import BASE


def run_here(
    out: Output,
    engine_dir: str,
    adapters: Mapping[str, str],
    model: str,
    messages: list[dict[str, str]],
    options: Mapping[str, Any],
) -> None:
    """Start an engine, answer a conversation, and stop it.

    Args:
        out: where the answer goes, as it grows.
        engine_dir: an engine directory, or any base model.
        adapters: name to path.
        model: a name of `adapters`, or `base`.
        messages: of the conversation.
        options: of `SamplingParams`.

    Raises:
        LoradexError: the engine cannot be started, or the question not be answered.
    """
    from loradex.llm.llm import LLM
    from loradex.llm.lora_request import LoRARequest
    from loradex.llm.sampling_params import SamplingParams

    named: LoRARequest | str | None = None if model == BASE else model
    if model in adapters:
        named = LoRARequest(model, lora_path=adapters[model])
    params = SamplingParams(**{"max_tokens": None, **options})
    with LLM(engine_dir) as llm:
        streaming = out.mode != "json"
        for piece in llm.chat_async(messages, params, named, streaming=True):
            last = piece
            if streaming:
                out.raw(piece.outputs[0].text_diff)
    answer = last.outputs[0]
    if streaming:
        out.raw("\n")
        out.say(f"{last.adapter}, {answer.length} tokens", style="dim")
    else:
        found = {"text": answer.text, "adapter": last.adapter, "finish_reason": answer.finish_reason}
        out.data(found | {"prompt_tokens": len(last.prompt_token_ids), "completion_tokens": answer.length})
