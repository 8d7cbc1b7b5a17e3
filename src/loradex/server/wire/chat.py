"""Bodies of `/v1/chat/completions`."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, JsonValue, field_validator

from loradex.core.prompt import ChatPrompt, Message
from loradex.errors import InvalidRequest, Unsupported
from loradex.server.body import Whole
from loradex.server.logprobs import ChatLogprobs, PromptLogprobs
from loradex.server.wire.sampling import MaxLogprobs, SamplingFields, readable_as
from loradex.server.wire.usage import Usage

_TEXT_PARTS = ("text", "input_text", "output_text")
_RESERVED = frozenset(
    {
        *(
            "add_generation_prompt",
            "chat_template",
            "continue_final_message",
            "conversation",
            "documents",
            "max_length",
        ),
        *("messages", "padding", "return_assistant_tokens_mask", "return_dict", "return_tensors", "tokenize"),
        *("tokenizer_kwargs", "tools", "truncation"),
    }
)
"""Names that the rendering uses itself; passed twice they would break it, or get round a check."""


class Part(BaseModel):
    """One part of a message; only text is offered."""

    model_config = ConfigDict(strict=True)

    type: str
    text: str | None = None


class ChatMessage(BaseModel):
    """One turn. Fields that answers carry (`refusal`, `annotations` ...) may come back and are ignored."""

    model_config = ConfigDict(strict=True)

    role: str
    content: Annotated[str | list[Part], readable_as("a string or a list of text parts")] = ""
    name: str | None = None

    def message(self, path: str) -> Message:
        """Return the turn as plain text.

        Raises:
            Unsupported: a part is not text.
            InvalidRequest: a text part has no text.
        """
        role = "system" if self.role == "developer" else self.role
        if isinstance(self.content, str):
            return Message(role, self.content, self.name)
        texts = []
        for index, part in enumerate(self.content):
            where = f"{path}.content.{index}"
            if part.type not in _TEXT_PARTS:
                raise Unsupported(
                    f"{where}: parts of type {part.type[:64]!r} are not offered; only text is", param=where
                )
            if part.text is None:
                raise InvalidRequest(f"{where}: the part has no text", param=f"{where}.text")
            texts.append(part.text)
        return Message(role, "\n".join(texts), self.name)


class ChatRequest(SamplingFields):
    """A request for a chat completion."""

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    max_completion_tokens: Annotated[Whole, Field(ge=1, le=2**31)] | None = None
    logprobs: bool | None = None
    top_logprobs: MaxLogprobs | None = None
    tool_choice: JsonValue = None
    chat_template: str | None = None
    chat_template_kwargs: dict[str, JsonValue] | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None

    @field_validator("messages", mode="before")
    @classmethod
    def _no_tools(cls, value: object) -> object:
        # Before the content is looked at: it is null in exactly these turns, which would be the wrong complaint.
        for index, turn in enumerate(value if isinstance(value, list) else ()):
            for name in ("tool_calls", "function_call", "audio"):
                if isinstance(turn, dict) and turn.get(name):
                    path = f"messages.{index}.{name}"
                    raise Unsupported(f"{path}: `{name}` is not offered by this server", param=path)
        return value

    def check(self) -> None:
        """Check what no single field can tell.

        Raises:
            InvalidRequest: fields exclude one another.
            Unsupported: a field asks for what is not offered.
        """
        super().check()
        if self.tool_choice not in (None, "none", "auto"):
            raise Unsupported("`tool_choice` is not offered by this server", param="tool_choice")
        if (self.model_extra or {}).get("echo"):
            raise Unsupported("`echo` is offered for completions, not for chat", param="echo")
        if self.top_logprobs and not self.logprobs:
            raise InvalidRequest("top_logprobs needs `logprobs` to be true", param="top_logprobs")
        if self.continue_final_message and self.add_generation_prompt:
            raise InvalidRequest(
                "continue_final_message and add_generation_prompt exclude one another", param="continue_final_message"
            )
        for name in self.chat_template_kwargs or ():
            if name in _RESERVED:
                raise InvalidRequest(
                    f"chat_template_kwargs may not hold `{name}`", param=f"chat_template_kwargs.{name}"
                )

    def prompt(self) -> ChatPrompt:
        """Return the conversation.

        Raises:
            InvalidRequest: a message is malformed.
        """
        continued = bool(self.continue_final_message)
        opened = not continued if self.add_generation_prompt is None else self.add_generation_prompt
        return ChatPrompt(
            messages=tuple(each.message(f"messages.{index}") for index, each in enumerate(self.messages)),
            add_generation_prompt=opened,
            continue_final_message=continued,
            template=self.chat_template,
            template_kwargs=dict[str, Any](self.chat_template_kwargs or {}),
        )


class AnswerMessage(BaseModel):
    """The turn that the model wrote."""

    role: str = "assistant"
    content: str | None


class ChatChoice(BaseModel):
    """One answer."""

    index: int
    message: AnswerMessage
    logprobs: ChatLogprobs | None
    finish_reason: str | None = Field(description="`stop`, `length` or `abort`")
    stop_reason: int | str | None = Field(
        description="The stop token or stop string that ended it; null at the end token"
    )


class ChatReply(BaseModel):
    """A chat completion."""

    id: str
    object: str = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    system_fingerprint: str
    prompt_logprobs: PromptLogprobs | None = Field(None, description="As in vLLM: null where they were not asked for")
