"""The form that an answer must have, as OpenAI, vLLM, TensorRT-LLM, SGLang, llama.cpp, LoRAX and TGI ask for one."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field, JsonValue

from loradex.core.grammar import Grammar, read_grammar
from loradex.errors import InvalidRequest, Unsupported
from loradex.server.body import Body

_WORDS = {
    **{f"guided_{word}": word for word in ("json", "regex", "choice", "grammar")},
    **{"json_schema": "json", "regex": "regex", "ebnf": "grammar", "grammar": "grammar"},
}
"""Fields of one form each, and what it is; an empty text asks for none."""

_TYPES = ("text", "json_object", "json_schema", "json", "regex", "ebnf")


class JsonSchema(Body):
    """A JSON schema with its name. Every schema is kept to, `strict` or not."""

    name: str | None = None
    schema_: dict[str, JsonValue] | None = Field(None, alias="schema")


class ResponseFormat(Body):
    """The form of the answer: `text` is any, `json_object` some JSON object, `json_schema` one that fits the schema.

    In LoRAX and llama.cpp `json_object` has a `schema` of its own; TensorRT-LLM has `json` with one, `regex`, `ebnf`.
    """

    type: str = "text"
    json_schema: JsonSchema | None = None
    schema_: dict[str, JsonValue] | None = Field(None, alias="schema")
    regex: str | None = None
    ebnf: str | None = None

    def grammar(self) -> Grammar | None:
        """Return the grammar of the answer.

        Raises:
            InvalidRequest: the type needs a schema, pattern or grammar that is missing.
            Unsupported: there is no such type.
        """
        if self.type == "text":
            return None
        if self.type == "json_object" and self.schema_ is None:
            return Grammar.json_object("response_format")
        wrapped = self.json_schema.schema_ if self.json_schema is not None else None
        schema = wrapped if self.type == "json_schema" else self.schema_
        given = {"regex": {"regex": self.regex}, "ebnf": {"grammar": self.ebnf}}.get(self.type, {"json": schema})
        if self.type not in _TYPES:
            hint = "Use `text`, `json_object` or `json_schema`"
            what = f"`response_format` of type {self.type[:64]!r} is not offered"
            raise Unsupported(what, hint=hint, param="response_format")
        found = read_grammar(given, "response_format")
        if found is None:
            missing = self.type if self.type in ("regex", "ebnf") else "schema"
            raise InvalidRequest(
                f"response_format of type {self.type!r} has no {missing}",
                hint='Give {"type": "json_schema", "json_schema": {"name": "NAME", "schema": {...}}}',
                param="response_format",
            )
        return found


class FormFields(Body):
    """The form of the answer; at most one of these fields may be given."""

    response_format: ResponseFormat | None = None
    structured_outputs: dict[str, JsonValue] | None = Field(
        None, description="The form of the answer: one of `json`, `json_object`, `regex`, `choice`, `grammar` (vLLM)"
    )
    guided_json: JsonValue = Field(None, description="An older name of `json` in `structured_outputs`, as are the next")
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None
    json_schema: JsonValue = Field(None, description="As in SGLang and llama.cpp: a schema, or its text")
    regex: str | None = Field(None, description="As in SGLang")
    ebnf: str | None = Field(None, description="As in SGLang")
    grammar: str | None = Field(None, description="As in llama.cpp (GBNF)")

    def form(self) -> Grammar | None:
        """Return the grammar of the answer; None where it may be any text.

        Raises:
            InvalidRequest: it is none, or there are several.
            Unsupported: it is of a kind that is not offered.
        """
        asked = {"response_format": self.response_format.grammar() if self.response_format else None}
        asked["structured_outputs"] = read_grammar(self.structured_outputs or {}, "structured_outputs")
        return one_form(asked | {name: word_form(name, getattr(self, name)) for name in _WORDS})


def word_form(name: str, value: JsonValue) -> Grammar | None:
    """Return the grammar that a field of one form asks for. Raises InvalidRequest where it is none."""
    return read_grammar({_WORDS[name]: None if value == "" else value}, name)


def one_form(asked: Mapping[str, Grammar | None]) -> Grammar | None:
    """Return the only grammar among those of several fields. Raises InvalidRequest where there are two."""
    given = {name: grammar for name, grammar in asked.items() if grammar is not None}
    if len(given) > 1:
        hint = "Give the form of the answer in one of them"
        raise InvalidRequest(f"{' and '.join(given)} exclude one another", hint=hint, param=list(given)[-1])
    return next(iter(given.values()), None)
