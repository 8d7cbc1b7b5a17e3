"""Every form in which a prompt may be given, made into one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from loradex.core.prompt import Message, Prompt
from loradex.errors import InvalidRequest, Unsupported

PromptType: TypeAlias = str | Sequence[int] | Mapping[str, Any]
"""Text, token ids, `{"prompt": text}` or `{"prompt_token_ids": ids}`."""

Conversation: TypeAlias = Sequence[Mapping[str, Any]]
"""Turns, each with `role` and `content`."""

_HINT = 'Give text, token ids, {"prompt": text} or {"prompt_token_ids": ids}, or a list of these'


def read_prompts(given: PromptType | Sequence[PromptType]) -> list[Prompt]:
    """Return the prompts, in order; one alone may stand without a list.

    Raises:
        InvalidRequest: one has none of the forms.
    """
    alone = isinstance(given, str | Mapping) or (len(given) > 0 and isinstance(given[0], int))
    return [_read(each) for each in ([given] if alone else given)]


def read_conversations(given: Conversation | Sequence[Conversation]) -> list[tuple[Message, ...]]:
    """Return the conversations, in order; one alone may stand without a list.

    Raises:
        InvalidRequest: a turn has no role, or content that is none.
        Unsupported: a part of a turn is not text.
    """
    alone = len(given) > 0 and isinstance(given[0], Mapping)
    return [tuple(_turn(turn) for turn in each) for each in ([given] if alone else given)]


def _read(prompt: Any) -> Prompt:
    if isinstance(prompt, Mapping):
        ids, text = prompt.get("prompt_token_ids"), prompt.get("prompt")
        prompt = text if ids is None else ids
    if isinstance(prompt, str):
        return prompt
    if isinstance(prompt, Sequence) and all(isinstance(token, int) for token in prompt):
        return tuple(prompt)
    what = f"A prompt is {str(prompt)[:64]!r}, of type {type(prompt).__name__}"
    raise InvalidRequest(what, hint=_HINT, param="prompts")


def _turn(turn: Any) -> Message:
    role, content = (turn.get("role"), turn.get("content")) if isinstance(turn, Mapping) else (None, None)
    if isinstance(content, list | tuple):
        content = "\n".join(_text(part) for part in content)
    if not isinstance(role, str) or not isinstance(content, str):
        hint = 'Give turns such as {"role": "user", "content": "..."}'
        raise InvalidRequest(f"A turn of the conversation is {str(turn)[:64]!r}", hint=hint, param="messages")
    return Message(role, content, turn.get("name"))


def _text(part: Any) -> str:
    if isinstance(part, Mapping) and part.get("type") == "text" and isinstance(part.get("text"), str):
        return str(part["text"])
    raise Unsupported(f"A part of a turn is {str(part)[:64]!r}; only text is offered", param="messages")
