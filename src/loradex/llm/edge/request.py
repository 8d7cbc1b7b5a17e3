"""One request of an input file, and what can be wrong with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from loradex.core.prompt import ChatPrompt, Message, Prompt
from loradex.errors import InvalidRequest, LoradexError, Unsupported
from loradex.llm.edge.fields import flag, number, whole
from loradex.llm.sampling_params import SamplingParams

MAX_MESSAGES: Final = 64
MAX_PARTS: Final = 18
MAX_BYTES: Final = 128 << 10
MAX_BIASES: Final = 1024

KNOWN: Final = frozenset(
    {
        *("messages", "system_prompt", "lora_name", "save_system_prompt_kv_cache", "disable_spec_decode"),
        *("logit_bias", "num_logprobs", "stop"),
    }
)


@dataclass(frozen=True, slots=True)
class Request:
    """A request that can be asked.

    Attributes:
        turns: of the conversation, `system_prompt` among them.
        prompt: the conversation, or its text where no chat template is wanted.
        params: how it is sampled.
        adapter: name in the file or the command line; None for the base.
    """

    turns: tuple[Message, ...]
    prompt: Prompt
    params: SamplingParams
    adapter: str | None


@dataclass(frozen=True, slots=True)
class Refused:
    """A request that cannot be asked: the error stands in its place in the output. `turns` may be incomplete."""

    turns: tuple[Message, ...]
    error: LoradexError


def read_request(given: Any, common: Mapping[str, Any], default: str | None, *, strict: bool) -> Request:
    """Return a request.

    Args:
        given: what stands in `requests`.
        common: the file around it, whose fields hold for all.
        default: the adapter where it names none.
        strict: its `system_prompt`, which TensorRT-Edge-LLM does not know, is no part of it.

    Raises:
        InvalidRequest, Unsupported: a field is missing, wrong, or not offered.
    """
    turns = read_turns(given, strict=strict)
    adapter = given.get("lora_name", default)
    if adapter is not None and not isinstance(adapter, str):
        raise InvalidRequest(f"`lora_name` is {adapter!r}", hint="Give a name, or null for the base", param="lora_name")
    return Request(turns, _prompt(turns, common), _params(given, common), adapter or None)


def read_turns(given: Any, *, strict: bool) -> tuple[Message, ...]:
    """Return the conversation of a request. Raises as `read_request`."""
    if not isinstance(given, Mapping) or "messages" not in given:
        raise InvalidRequest(
            "Each request must be an object with 'messages' key",
            hint='Write {"messages": [{"role": "user", "content": "..."}]}',
            param="messages",
        )
    messages = given["messages"]
    if not isinstance(messages, list) or not messages:
        raise InvalidRequest("Each request object must contain a 'messages' array", hint="", param="messages")
    if len(messages) > MAX_MESSAGES:
        raise InvalidRequest(f"There are {len(messages)} messages; at most {MAX_MESSAGES} are read", param="messages")
    turns = [_turn(each) for each in messages]
    system = None if strict else given.get("system_prompt")
    if system is None or system == "":
        return tuple(turns)
    if not isinstance(system, str) or any(turn.role == "system" for turn in turns):
        raise InvalidRequest(
            "`system_prompt` is no text, or stands beside a system message",
            hint="Keep one of them",
            param="system_prompt",
        )
    return (Message("system", system), *turns)


def _turn(given: Any) -> Message:
    role, content = (given.get("role"), given.get("content")) if isinstance(given, Mapping) else (None, None)
    if isinstance(content, list):
        if len(content) > MAX_PARTS:
            raise InvalidRequest(f"A message has {len(content)} parts; at most {MAX_PARTS} are read", param="messages")
        content = "".join(_text(part) for part in content)
    if not isinstance(role, str) or not isinstance(content, str):
        hint = 'Give messages such as {"role": "user", "content": "..."}'
        raise InvalidRequest(f"A message is {str(given)[:64]!r}", hint=hint, param="messages")
    if len(content.encode("utf-8", "replace")) > MAX_BYTES:
        raise InvalidRequest(f"A message is longer than {MAX_BYTES} bytes", param="messages")
    return Message(role, content)


def _text(part: Any) -> str:
    if isinstance(part, Mapping) and part.get("type") == "text" and isinstance(part.get("text"), str):
        return str(part["text"])
    kind = part.get("type") if isinstance(part, Mapping) else part
    raise Unsupported(f"A part of a message is of type {kind!r}; only text is offered", param="messages")


def _prompt(turns: tuple[Message, ...], common: Mapping[str, Any]) -> Prompt:
    if not flag(common, "apply_chat_template", default=True):
        return "".join(turn.content for turn in turns)
    begun = flag(common, "add_generation_prompt", default=True)
    # Only templates that know of thinking look at this.
    extra = {"enable_thinking": flag(common, "enable_thinking", default=False)}
    return ChatPrompt(turns, add_generation_prompt=begun, template_kwargs=extra)


def _params(given: Mapping[str, Any], common: Mapping[str, Any]) -> SamplingParams:
    logprobs = whole(given if "num_logprobs" in given else common, "num_logprobs", 0, least=0)
    stop = given.get("stop")
    return SamplingParams(
        temperature=number(common, "temperature", 1.0),
        top_p=number(common, "top_p", 0.8),
        top_k=whole(common, "top_k", 50, least=0),
        max_tokens=whole(common, "max_generate_length", 256, least=1),
        logprobs=logprobs or None,
        logit_bias=_biases(given if "logit_bias" in given else common),
        stop=stop if stop is None or isinstance(stop, str) else tuple(_stop(each) for each in stop),
    )


def _stop(given: Any) -> str:
    if not isinstance(given, str):
        raise InvalidRequest(f"`stop` holds {given!r}", hint="Give a text, or a list of texts", param="stop")
    return given


def _biases(given: Mapping[str, Any]) -> dict[int, float]:
    found = given.get("logit_bias") or {}
    if not isinstance(found, Mapping) or len(found) > MAX_BIASES:
        what = f"has more than {MAX_BIASES} entries" if isinstance(found, Mapping) else "is no object"
        raise InvalidRequest(f"`logit_bias` {what}", param="logit_bias")
    try:
        return {int(token): float(bias) for token, bias in found.items()}
    except (TypeError, ValueError) as error:
        raise InvalidRequest(f"`logit_bias` is none: {error}", param="logit_bias") from error
