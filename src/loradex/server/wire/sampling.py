"""The fields that completions and chat completions share, as OpenAI and vLLM spell them."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, ValidationError, ValidatorFunctionWrapHandler, WrapValidator
from pydantic_core import PydanticCustomError

from loradex.core.defaults import NUMBERS
from loradex.core.sampling import MAX_LOGPROBS, Sampling
from loradex.errors import InvalidRequest, Unsupported
from loradex.server.body import Body, Whole
from loradex.server.wire.form import FormFields
from loradex.server.wire.selection import SelectionFields

MAX_N = 128
"""Answers to one prompt."""

MaxLogprobs = Annotated[Whole, Field(ge=0, le=MAX_LOGPROBS)]
"""A number of alternatives to report for each token."""

_REFUSED = (
    *("use_beam_search", "logits_processors", "truncate_prompt_tokens"),
    *("allowed_token_ids", "bad_words", "prompt_embeds", "suffix", "modalities", "audio"),
    *("tools", "functions", "function_call", "documents", "web_search_options", "return_token_ids"),
    *("stop_regex", "structural_tag"),
)
"""Fields that other servers honour. To ignore one would give an answer that the client did not ask for."""


def readable_as(what: str) -> WrapValidator:
    """Return a validator that says what a field may be, where pydantic would list every alternative's failure."""

    def check(value: object, handler: ValidatorFunctionWrapHandler) -> Any:
        try:
            return handler(value)
        except ValidationError as error:
            raise PydanticCustomError("wrong_type", "Input should be {what}", {"what": what}) from error

    return WrapValidator(check)


class StreamOptions(Body):
    """What a stream tells besides the text."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class SamplingFields(SelectionFields, FormFields):
    """Who answers, how tokens are chosen and when answers end. Null is the same as absent."""

    n: Annotated[Whole, Field(ge=1, le=MAX_N)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[Whole, Field(ge=-1, le=2**31)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=100)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    seed: Whole | None = None
    max_tokens: Annotated[Whole, Field(ge=1, le=2**31)] | None = None
    min_tokens: Annotated[Whole, Field(ge=0, le=2**31)] | None = None
    stop: Annotated[str | list[str] | None, readable_as("a string or a list of strings")] = None
    stop_token_ids: Annotated[list[Whole], Field(max_length=128)] | None = None
    prompt_logprobs: MaxLogprobs | None = Field(
        None, description="How likely the prompt's tokens were, with so many alternatives; not in streams (vLLM)"
    )
    logit_bias: (
        Annotated[dict[str, float], readable_as("an object of token ids and numbers"), Field(max_length=4096)] | None
    ) = None
    ignore_eos: bool | None = None
    skip_special_tokens: bool | None = None
    include_stop_str_in_output: bool | None = None
    user: str | None = Field(None, description="Who asks: while a canary runs, one user is answered by one version")
    priority: Annotated[Whole, Field(ge=-(2**63), le=2**63 - 1)] | None = Field(
        None, description="Lower is served earlier while requests wait (vLLM); null is 0"
    )

    def check(self) -> None:
        """Check what no single field can tell.

        Raises:
            InvalidRequest: fields exclude one another.
            Unsupported: a field asks for what is not offered.
        """
        for name in _REFUSED:
            if (self.model_extra or {}).get(name) and not _harmless(name, (self.model_extra or {})[name]):
                hint = f"Leave `{name}` out"
                raise Unsupported(f"`{name}` is not offered by this server", param=name, hint=hint)
        self.form()
        if self.prompt_logprobs and self.stream:
            hint = "Ask without `stream`, or for completions with `echo` and `logprobs`"
            said = "`prompt_logprobs` are not available when `stream=True`."
            raise InvalidRequest(said, hint=hint, param="prompt_logprobs")
        if self.stream_options is not None and not self.stream:
            raise InvalidRequest("stream_options needs `stream` to be true", param="stream_options")
        if isinstance(self.stop, list) and len(self.stop) > 4:
            raise InvalidRequest(f"stop has {len(self.stop)} strings; at most 4 are allowed", param="stop")
        if (self.n or 1) > 1 and self.temperature == 0:
            raise InvalidRequest(f"n is {self.n} with temperature 0, where all answers would be the same", param="n")

    def sampling(self, max_tokens: int | None, logprobs: int | None) -> Sampling:
        """Return the sampling parameters.

        Raises:
            InvalidRequest: naming the field that is wrong.
        """
        given = {name: value for name in _SAME if (value := getattr(self, name)) is not None}
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        return Sampling(
            **given,
            max_tokens=max_tokens,
            stop=stop,
            stop_token_ids=tuple(self.stop_token_ids or ()),
            include_stop=bool(self.include_stop_str_in_output),
            logprobs=logprobs,
            prompt_logprobs=self.prompt_logprobs,
            logit_bias=self._bias(),
            grammar=self.form(),
        )

    def given(self, max_tokens: int | None) -> frozenset[str]:
        """Return the fields over which no default of an adapter wins, `max_tokens` having several names."""
        names = {name for name in (*NUMBERS, "stop") if name != "max_tokens" and getattr(self, name) is not None}
        return frozenset(names | ({"max_tokens"} if max_tokens is not None else set()))

    def _bias(self) -> dict[int, float]:
        bias = {}
        for key, value in (self.logit_bias or {}).items():
            if not (key.isascii() and key.isdecimal() and len(key) < 20):
                raise InvalidRequest(f"logit_bias has the key {key[:64]!r}, which is no token id", param="logit_bias")
            bias[int(key)] = value
        return bias


_SAME = (
    *("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty"),
    *("seed", "min_tokens", "ignore_eos", "skip_special_tokens"),
)
"""Fields that bear the same name and meaning in `Sampling`."""


def _harmless(name: str, value: object) -> bool:
    # Some clients always send these, with the values that ask for nothing.
    return (name, value) in (("modalities", ["text"]), ("function_call", "none"))
