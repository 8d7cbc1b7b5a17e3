"""Bodies of llama.cpp's routes."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, Field, JsonValue

from loradex.core.sampling import Sampling
from loradex.server.body import Body, Whole
from loradex.server.wire.completion import TextPrompt
from loradex.server.wire.form import one_form, word_form
from loradex.server.wire.sampling import readable_as
from loradex.server.wire.selection import ScaledAdapter


class LoraAdapter(BaseModel):
    """One adapter: its number as long as the server runs, and the scale that it has where a request gives none."""

    id: int
    path: str
    scale: float
    task_name: str = ""
    prompt_prefix: str = ""
    name: str = Field(description="Ours: what `model` calls it")


class LlamaError(BaseModel):
    """What went wrong, with the fix."""

    code: int
    message: str
    type: str


class LlamaErrorReply(BaseModel):
    """The envelope of errors."""

    error: LlamaError


class CompletionBody(Body):
    """What `/completion` is asked. Without `lora` the scales of `POST /lora-adapters` hold."""

    prompt: Annotated[str | list[Whole], readable_as("a string or a list of token ids")]
    model: str | None = None
    lora: list[ScaledAdapter] | None = None
    n_predict: Annotated[Whole, Field(ge=-1, le=2**31)] = -1
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.8
    top_k: Annotated[Whole, Field(ge=-1, le=2**31)] = 40
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.95
    min_p: Annotated[float, Field(ge=0, le=1)] = 0.05
    repeat_penalty: Annotated[float, Field(gt=0, le=100)] = 1.0
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] = 0.0
    seed: Whole = -1
    stop: list[str] = Field([])
    ignore_eos: bool = False
    stream: bool = False
    grammar: str | None = Field(None, description="The form of the answer, in GBNF")
    json_schema: JsonValue = Field(None, description="The form of the answer")

    def text(self) -> TextPrompt:
        """Return the prompt."""
        return self.prompt if isinstance(self.prompt, str) else tuple(self.prompt)

    def sampling(self) -> Sampling:
        """Return the sampling parameters. Raises InvalidRequest, naming the field that is wrong."""
        same = ("temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty", "ignore_eos")
        given: dict[str, Any] = {name: getattr(self, name) for name in same}
        return Sampling(
            **given,
            repetition_penalty=self.repeat_penalty,
            seed=self.seed if self.seed >= 0 else None,
            stop=tuple(self.stop),
            max_tokens=self.n_predict if self.n_predict >= 0 else None,
            grammar=one_form({name: word_form(name, getattr(self, name)) for name in ("grammar", "json_schema")}),
        )
