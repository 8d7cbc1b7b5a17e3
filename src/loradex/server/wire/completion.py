"""Bodies of `/v1/completions`."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

from pydantic import BaseModel, Field

from loradex.core.sampling import Sampling
from loradex.errors import InvalidRequest, Unsupported
from loradex.server.body import Whole
from loradex.server.logprobs import CompletionLogprobs, PromptLogprobs
from loradex.server.wire.sampling import MaxLogprobs, SamplingFields, readable_as
from loradex.server.wire.usage import Usage

TextPrompt = str | tuple[int, ...]
"""What a completion goes on from: text, or token ids."""

DEFAULT_MAX_TOKENS = 16
"""OpenAI's default for completions, which clients rely on."""

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
    max_tokens: Annotated[Whole, Field(ge=0, le=2**31, description="0 with `echo`: the prompt alone")] | None = None
    echo: bool | None = Field(None, description="The prompt before its completion, in `logprobs` too")
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
        if self.max_tokens == 0 and not self.echo:
            hint = "Give `max_tokens` of 1 or more, or `echo` for the prompt alone"
            raise InvalidRequest("max_tokens is 0 without `echo`", hint=hint, param="max_tokens")

    def answer(self) -> Sampling:
        """Return the sampling parameters. An engine answers with one token at least, even where none is wanted."""
        limit = DEFAULT_MAX_TOKENS if self.max_tokens is None else max(1, self.max_tokens)
        scored = self.logprobs if self.echo and self.prompt_logprobs is None else self.prompt_logprobs
        return replace(self.sampling(limit, self.logprobs), prompt_logprobs=scored)

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
    prompt_logprobs: PromptLogprobs | None = Field(None, description="As in vLLM: null where they were not asked for")


class CompletionReply(BaseModel):
    """Completions."""

    id: str
    object: str = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage
    system_fingerprint: str
