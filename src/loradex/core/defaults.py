"""What a version answers with where a request says nothing: system prompt, chat template, sampling, stop strings."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from loradex.core.prompt import ChatPrompt, Message, Prompt
from loradex.core.sampling import Sampling
from loradex.errors import InvalidRequest

MAX_CHARACTERS = 1 << 16
"""Of a system prompt or a chat template."""

NUMBERS: Mapping[str, type[int] | type[float]] = {
    "temperature": float,
    "top_p": float,
    "top_k": int,
    "min_p": float,
    "repetition_penalty": float,
    "presence_penalty": float,
    "frequency_penalty": float,
    "seed": int,
    "max_tokens": int,
}
"""The fields of `Sampling` that may have a default, beside `stop`."""


@dataclass(frozen=True, slots=True)
class Defaults:
    """The defaults of one version; what a request gives wins over each of them by itself.

    Attributes:
        system: the system prompt of conversations without one; empty for none.
        chat_template: renders conversations in the place of the tokenizer's own (Jinja); empty for that.
        sampling: fields of `Sampling`, of those in `NUMBERS`.
        stop: strings that end the answer.
    """

    system: str = ""
    chat_template: str = ""
    sampling: Mapping[str, float] = field(default_factory=dict)
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            InvalidRequest: naming the field, its value and what is allowed.
        """
        for name in ("system", "chat_template"):
            if len(getattr(self, name)) > MAX_CHARACTERS:
                raise InvalidRequest(
                    f"{name} has {len(getattr(self, name))} characters; at most {MAX_CHARACTERS} are allowed",
                    param=name,
                )
        for name, value in self.sampling.items():
            if name not in NUMBERS:
                raise InvalidRequest(
                    f"`{name}` cannot have a default", hint=f"Those that can are {', '.join(NUMBERS)}", param=name
                )
            if isinstance(value, bool) or not isinstance(value, int if NUMBERS[name] is int else int | float):
                raise InvalidRequest(f"{name} is {value!r}, which is no {NUMBERS[name].__name__}", param=name)
        Sampling(**self.sampling, stop=self.stop)  # type: ignore[arg-type]

    def __bool__(self) -> bool:
        return bool(self.written())

    @classmethod
    def read(cls, data: Mapping[str, Any]) -> Defaults:
        """Return what `written` wrote."""
        return cls(**{**data, "stop": tuple(data.get("stop", ()))})

    def written(self) -> dict[str, Any]:
        """Return what is set, as JSON can hold it."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        values |= {"sampling": dict(self.sampling), "stop": list(self.stop)}
        return {name: value for name, value in values.items() if value}

    def prompt(self, prompt: Prompt) -> Prompt:
        """Return a prompt with what it leaves out; only conversations leave anything out."""
        if not isinstance(prompt, ChatPrompt):
            return prompt
        if self.system and not any(message.role == "system" for message in prompt.messages):
            prompt = replace(prompt, messages=(Message("system", self.system), *prompt.messages))
        return replace(prompt, template=prompt.template or self.chat_template or None)

    def sampled(self, sampling: Sampling, given: Collection[str], max_model_len: int) -> Sampling:
        """Return sampling parameters with the fields that were not `given`. No default makes a request impossible."""
        values: dict[str, Any] = {name: value for name, value in self.sampling.items() if name not in given}
        if "max_tokens" in values:
            values["max_tokens"] = max(sampling.min_tokens, min(values["max_tokens"], max_model_len))
        if self.stop and "stop" not in given:
            values["stop"] = self.stop
        return replace(sampling, **values) if values else sampling


NO_DEFAULTS = Defaults()


def changed(sampling: Sampling) -> frozenset[str]:
    """Return the fields that are not as `Sampling` begins: what somebody gave who did not say what."""
    begun = Sampling()
    return frozenset(
        each.name for each in fields(sampling) if getattr(sampling, each.name) != getattr(begun, each.name)
    )
