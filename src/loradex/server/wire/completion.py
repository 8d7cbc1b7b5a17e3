"""Bodies of `/v1/completions`."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field

from loradex.errors import InvalidRequest, Unsupported
from loradex.server.body import Whole
from loradex.server.logprobs import CompletionLogprobs
from loradex.server.wire.sampling import MaxLogprobs, SamplingFields, readable_as
from loradex.server.wire.usage import Usage

TextPrompt = str | tuple[int, ...]
"""What a completion goes on from: text, or token ids."""

MAX_CHOICES = 2048
"""Answers in one reply: prompts times `n`."""

_PROMPT = "a string, a list of strings, a list of token ids, or a list of lists of token ids"


class CompletionRequest(SamplingFields):
    """A request for completions of one or more prompts."""

    prompt: Annotated[
        str | list[str] | list[Whole] | list[list[Whole]],
        Field(union_mode="left_to_right"),
        readable_as(_PROMPT),
    ]
    echo: bool | None = None
    logprobs: MaxLogprobs | None = None
    best_of: Annotated[Whole, Field(ge=1)] | None = None

    def check(self) -> None:
        """Check what no single field can tell.

        Raises:
            InvalidRequest: fields exclude one another.
            Unsupported: a field asks for what is not offered.
        """
        super().check()
        if self.best_of is not None and self.best_of > (self.n or 1):
            raise Unsupported("`best_of` above `n` is not offered by this server", param="best_of")
        if self.echo and self.logprobs is not None:
            raise Unsupported("`echo` with `logprobs` is not offered by this server", param="logprobs")

    def prompts(self) -> list[TextPrompt]:
        """Return the prompts.

        Raises:
            InvalidRequest: there is none, one is empty, or there are too many.
        """
        given = self.prompt
        found: list[TextPrompt]
        if isinstance(given, str):
            found = [given]
        elif given and isinstance(given[0], int):
            found = [tuple(token for token in given if isinstance(token, int))]
        else:
            found = [each if isinstance(each, str) else tuple(each) for each in given if not isinstance(each, int)]
        if not found:
            raise InvalidRequest("prompt is an empty list", param="prompt")
        if any(not each for each in found):
            raise InvalidRequest("prompt is empty", param="prompt")
        if len(found) * (self.n or 1) > MAX_CHOICES:
            raise InvalidRequest(
                f"{len(found)} prompts with n={self.n or 1} are more than {MAX_CHOICES} answers",
                param="prompt",
                hint="Send several requests",
            )
        return found


class CompletionChoice(BaseModel):
    """One answer; `index` counts the answers of the first prompt first."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: str | None = Field(description="`stop`, `length` or `abort`")
    stop_reason: int | str | None = Field(
        description="The stop token or stop string that ended it; null at the end token"
    )


class CompletionReply(BaseModel):
    """Completions."""

    id: str
    object: str = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage
    system_fingerprint: str
