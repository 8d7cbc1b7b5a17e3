"""What `use_model` gives: the base model under one adapter, for one user."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from loradex.core.adapter import BASE
from loradex.core.mix import parse_mix
from loradex.errors import AnswerIncomplete, InvalidRequest
from loradex.llm.generation import Generation
from loradex.llm.llm import LLM
from loradex.llm.output import RequestOutput
from loradex.llm.sampling_params import SamplingParams, StructuredOutputsParams
from loradex.manager.configuration import require_known

PromptText: TypeAlias = str | Sequence[Mapping[str, Any]]
"""A text, or the turns of a conversation."""


class Model:
    """The base model under an adapter. Which one is this handle's own: nobody else's changes with it.

    Every method that answers takes fields of `SamplingParams` by name. Without, answers are greedy and as long as the
    context leaves room for.

    Args:
        llm: which answers.
        adapters: names that were configured; more may come.
        schemas: what `generate_modeling` makes under an adapter.
        name: an adapter, a reference or mix such as `concept*0.7+naming`, or `base`.
    """

    def __init__(self, llm: LLM, adapters: Mapping[str, str], schemas: Mapping[str, Any], name: str) -> None:
        self._llm = llm
        self._adapters = adapters
        self._schemas = schemas
        self._active: str | None = None
        self._ended = False
        self.set_lora_adapter(name)

    def set_lora_adapter(self, name: str | None) -> None:
        """Let what follows be answered under another adapter; `base` and None mean the base alone.

        Raises:
            AdapterNotFound: it was not configured.
            InvalidRequest: it is no name.
        """
        self._active = check_adapter(name, self._adapters)

    def get_active_adapter(self) -> str | None:
        """Return the adapter under which this handle answers; None for the base alone."""
        return self._active

    def list_adapters(self) -> list[str]:
        """Return the names of all adapters, in the order in which they were configured."""
        return list(self._adapters)

    def generate_text(self, prompt: PromptText, *, system: str = "", raw: bool = False, **sampling: Any) -> str:
        """Answer a prompt.

        Args:
            prompt: what the user says, or a conversation. It is rendered with the chat template of the base, where it
                has one.
            system: the system prompt.
            raw: go on from `prompt` as it is, without a chat template.
            sampling: fields of `SamplingParams`.

        Raises:
            LoradexError: whatever `LLM.generate` raises.
        """
        return self._begin(prompt, system, raw, sampling).result().outputs[0].text

    async def generate_text_async(
        self, prompt: PromptText, *, system: str = "", raw: bool = False, **sampling: Any
    ) -> str:
        """Answer a prompt, in any event loop; otherwise as `generate_text`. A cancelled one is aborted."""
        return (await self._awaited(self._begin(prompt, system, raw, sampling))).outputs[0].text

    def stream_text(self, prompt: PromptText, *, system: str = "", raw: bool = False, **sampling: Any) -> Stream:
        """Answer a prompt piece by piece, for `for` or `async for`; otherwise as `generate_text`."""
        return Stream(self._begin(prompt, system, raw, sampling, streaming=True))

    def generate_modeling(
        self, prompt: PromptText, schema: Any = None, *, system: str = "", raw: bool = False, **sampling: Any
    ) -> Any:
        """Answer a prompt with data: no other answer than one that fits the schema can come.

        Args:
            prompt: as for `generate_text`.
            schema: a pydantic model, of which an instance is returned, or a JSON schema. None takes that which was
                configured for the adapter, else any JSON object.
            system, raw, sampling: as for `generate_text`.

        Raises:
            AnswerIncomplete: the answer reached its limit of tokens before it was complete.
            InvalidRequest: the schema has a mistake, or something that cannot be followed.
            pydantic.ValidationError: a validator of the model refuses what its schema allows.
        """
        form, sampling = self._form(schema, sampling)
        return _parsed(form, self._begin(prompt, system, raw, sampling).result())

    async def generate_modeling_async(
        self, prompt: PromptText, schema: Any = None, *, system: str = "", raw: bool = False, **sampling: Any
    ) -> Any:
        """Answer a prompt with data, in any event loop; otherwise as `generate_modeling`."""
        form, sampling = self._form(schema, sampling)
        return _parsed(form, await self._awaited(self._begin(prompt, system, raw, sampling)))

    def end(self) -> None:
        """End it, as its `with` block does: the model may be unloaded from now on."""
        self._ended = True

    def _begin(
        self, prompt: PromptText, system: str, raw: bool, sampling: Mapping[str, Any], *, streaming: bool = False
    ) -> Generation:
        if self._ended:
            raise InvalidRequest(
                "This model was used after its block",
                hint="Answer within `with model_manager.use_model(...) as model:`",
            )
        params = _params(sampling)
        if isinstance(prompt, str) and (raw or not self._llm.info.has_chat_template):
            text = f"{system}\n\n{prompt}" if system else prompt
            return self._llm.generate_async(text, params, self._active, streaming)
        turns: list[Mapping[str, Any]] = [{"role": "system", "content": system}] if system else []
        turns += [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        return self._llm.chat_async(turns, params, self._active, streaming)

    @staticmethod
    async def _awaited(generation: Generation) -> RequestOutput:
        try:
            return await generation
        finally:
            if not generation.done:
                generation.abort()

    def _form(self, schema: Any, sampling: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Return what is to be made, and the sampling parameters that make it."""
        form = self._schemas.get(self._active or BASE) if schema is None else schema
        held = StructuredOutputsParams(json_object=True) if form is None else StructuredOutputsParams(json=form)
        return form, {**sampling, "structured_outputs": held}


class Stream:
    """Pieces of the text of an answer, for `for` or `async for`. Whoever stops reading should `abort` it."""

    def __init__(self, generation: Generation) -> None:
        self._generation = generation

    def __iter__(self) -> Iterator[str]:
        return (piece.outputs[0].text_diff for piece in self._generation)

    async def __aiter__(self) -> AsyncIterator[str]:
        async for piece in self._generation:
            yield piece.outputs[0].text_diff

    def abort(self) -> None:
        """End the answer."""
        self._generation.abort()


def check_adapter(name: str | None, known: Mapping[str, str]) -> str | None:
    """Return a name, a reference or a mix of configured adapters; None for the base.

    Raises:
        AdapterNotFound: one of them was not configured.
        InvalidRequest: it is no name.
    """
    if name is None or name == BASE:
        return None
    for reference in parse_mix(name).adapters:
        require_known(reference.name, known)
    return name


def _params(sampling: Mapping[str, Any]) -> SamplingParams:
    try:
        return SamplingParams(**{"temperature": 0.0, "max_tokens": None, **sampling})
    except TypeError as error:
        raise InvalidRequest(str(error), hint="See what it takes: help(loradex.SamplingParams)") from error


def _parsed(form: Any, output: RequestOutput) -> Any:
    answer = output.outputs[0]
    if answer.finish_reason != "stop":
        raise AnswerIncomplete(answer.text, answer.length)
    validate = getattr(form, "model_validate_json", None)
    return validate(answer.text) if callable(validate) else json.loads(answer.text)
