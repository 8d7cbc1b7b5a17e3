"""Bodies of LoRAX's routes."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, JsonValue

from loradex.core.grammar import Grammar, read_grammar
from loradex.core.prompt import ChatPrompt, Message, Prompt
from loradex.core.sampling import MAX_LOGPROBS, Sampling
from loradex.errors import Unsupported
from loradex.server.body import Body, Whole
from loradex.server.wire.form import ResponseFormat, one_form
from loradex.server.wire.selection import LoraxFields

_REFUSED = ("typical_p", "watermark", "truncate", "decoder_input_details", "adapter_parameters")


class TgiGrammar(Body):
    """TGI's form of an answer: a JSON schema or a pattern."""

    type: Literal["json", "regex"]
    value: JsonValue


class Parameters(LoraxFields):
    """How tokens are chosen. Without `do_sample` and anything that shapes a draw, the likeliest token is taken."""

    best_of: Annotated[Whole, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=100)] | None = None
    top_k: Annotated[Whole, Field(ge=0, le=2**31)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    do_sample: bool = False
    max_new_tokens: Annotated[Whole, Field(ge=1, le=2**31)] | None = None
    ignore_eos_token: bool = False
    return_full_text: bool | None = None
    stop: list[str] = Field([], max_length=4)
    details: bool = False
    return_k_alternatives: Annotated[Whole, Field(ge=1, le=MAX_LOGPROBS)] | None = None
    apply_chat_template: bool = False
    seed: Annotated[Whole, Field(ge=0)] | None = None
    response_format: ResponseFormat | None = Field(None, description="The form of the answer")
    grammar: TgiGrammar | None = Field(None, description="The form of the answer, as in TGI")
    api_token: str | None = Field(None, description="Not used: the server has its own access to the Hub")

    def sampling(self, *, tokens: bool) -> Sampling:
        """Return the sampling parameters; `tokens` also asks for the log-probability of each.

        Raises:
            Unsupported: a field asks for what is not offered.
            InvalidRequest: naming the field that is wrong.
        """
        for name in _REFUSED:
            if (self.model_extra or {}).get(name):
                raise Unsupported(f"`{name}` is not offered by this server", hint=f"Leave `{name}` out", param=name)
        if (self.best_of or 1) > 1:
            raise Unsupported("`best_of` above 1 is not offered", hint="Leave `best_of` out", param="best_of")
        drawn = self.do_sample or any(each for each in (self.temperature, self.top_k, self.top_p))
        return Sampling(
            temperature=(1.0 if self.temperature is None else self.temperature) if drawn else 0.0,
            top_k=self.top_k or 0,
            top_p=self.top_p or 1.0,
            repetition_penalty=self.repetition_penalty or 1.0,
            seed=self.seed,
            max_tokens=self.max_new_tokens,
            stop=tuple(self.stop),
            include_stop=True,
            ignore_eos=self.ignore_eos_token,
            logprobs=self.return_k_alternatives or (0 if tokens else None),
            grammar=self._form(),
        )

    def _form(self) -> Grammar | None:
        formats = {"response_format": self.response_format.grammar() if self.response_format else None}
        given = self.grammar
        return one_form(formats | {"grammar": read_grammar({given.type: given.value}, "grammar") if given else None})


class GenerateBody(Body):
    """A prompt, and how to go on from it; `stream` counts on `POST /` alone."""

    inputs: str
    parameters: Parameters = Field(default_factory=lambda: Parameters.model_validate({}))
    stream: bool = False

    def prompt(self) -> Prompt:
        """Return the prompt; with `apply_chat_template` as one turn of the user's."""
        if self.parameters.apply_chat_template:
            return ChatPrompt((Message("user", self.inputs),))
        return self.inputs


class Alternative(BaseModel):
    """A token that might have been taken."""

    id: int
    text: str
    logprob: float


class Token(Alternative):
    """One token. `special` is false: special tokens are no part of an answer here."""

    special: bool = False
    alternative_tokens: list[Alternative] | None = None


class Details(BaseModel):
    """How the answer ended."""

    finish_reason: Literal["length", "eos_token", "stop_sequence"]
    prompt_tokens: int
    generated_tokens: int
    seed: int | None


class FullDetails(Details):
    """How the answer ended, and its tokens; the prompt's are not reported."""

    prefill: list[Any] = []
    tokens: list[Token]


class Generated(BaseModel):
    """An answer."""

    generated_text: str
    details: FullDetails | None = None


class LoraxError(BaseModel):
    """What went wrong, with the fix."""

    error: str
    error_type: str
