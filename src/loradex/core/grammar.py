"""The form that an answer must have, and how people ask for one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from loradex.errors import InvalidRequest, Unsupported, near

GrammarKind = Literal["json", "regex", "choice", "grammar"]

MAX_CHARACTERS: Final = 1 << 18
"""Of a schema or pattern."""

_ANY_OBJECT: Final = '{"type": "object"}'
_KINDS: Final = ("json", "json_object", "regex", "choice", "grammar")
_NOTHING: Final = frozenset(
    ("disable_fallback", "disable_any_whitespace", "disable_additional_properties", "whitespace_pattern", "backend")
)
_HINT: Final = 'Give one of json (a JSON schema), json_object, regex, choice or grammar, such as {"choice": ["a", "b"]}'


@dataclass(frozen=True, slots=True)
class Grammar:
    """The form of an answer: the engine takes only tokens that keep to it, and ends when it is complete.

    Attributes:
        kind: `json` for a JSON schema (objects have no properties but those that it names, unless it says
            `additionalProperties`), `regex` for a pattern of the whole answer, `choice` for a JSON list of texts of
            which the answer is one, `grammar` for a context-free grammar in Lark's or llama.cpp's (GBNF) notation.
        text: the schema, pattern, list or grammar.
        param: the request field that it came from, for errors.
    """

    kind: GrammarKind
    text: str
    param: str = field(default="structured_outputs", compare=False)

    def __post_init__(self) -> None:
        """Check the length.

        Raises:
            InvalidRequest: it is empty, or too long.
        """
        if not 0 < len(self.text) <= MAX_CHARACTERS:
            raise InvalidRequest(
                f"{self.param} has {len(self.text)} characters; it must have from 1 to {MAX_CHARACTERS}",
                param=self.param,
            )

    @classmethod
    def json(cls, schema: Any, param: str = "structured_outputs") -> Grammar:
        """Return the grammar of a JSON schema: a mapping, its text, or a pydantic model.

        Raises:
            InvalidRequest: it is none of these.
        """
        made = getattr(schema, "model_json_schema", None)
        schema = made() if callable(made) else schema
        try:
            schema = json.loads(schema) if isinstance(schema, str) else schema
            text = json.dumps(schema)
        except (ValueError, TypeError, RecursionError) as error:
            raise InvalidRequest(f"{param} is not JSON: {error}", param=param) from error
        if not isinstance(schema, Mapping):
            hint = 'Give a schema such as {"type": "object", "properties": {"name": {"type": "string"}}}'
            raise InvalidRequest(f"{param} is {text[:64]}, which is no JSON schema", hint=hint, param=param)
        return cls("json", text, param)

    @classmethod
    def json_object(cls, param: str = "structured_outputs") -> Grammar:
        """Return the grammar of any JSON object."""
        return cls("json", _ANY_OBJECT, param)


def read_grammar(given: Mapping[str, Any], param: str = "structured_outputs") -> Grammar | None:
    """Return the grammar that one of vLLM's words names: `json`, `json_object`, `regex`, `choice` or `grammar`.

    What is null or false was not given.

    Raises:
        InvalidRequest: a word is unknown, there are several, or its value is none.
        Unsupported: it is understood and not offered.
    """
    found = {name: value for name, value in given.items() if value is not None and value is not False}
    found = {name: value for name, value in found.items() if name not in _NOTHING}
    if "structural_tag" in found:
        raise Unsupported("`structural_tag` is not offered", hint=_HINT, param=param)
    for name in found:
        if name not in _KINDS:
            close = near(name, _KINDS)
            hint = f"Did you mean `{close[0]}`?" if close else _HINT
            raise InvalidRequest(f"{param} has the unknown field {name[:64]!r}", hint=hint, param=param)
    if len(found) > 1:
        raise InvalidRequest(f"{param} has {' and '.join(found)}, which exclude one another", hint=_HINT, param=param)
    for name, value in found.items():
        return _read(name, value, param)
    return None


def _read(name: str, value: Any, param: str) -> Grammar:
    if name == "json":
        return Grammar.json(value, param)
    if name == "json_object" and value is True:
        return Grammar.json_object(param)
    if name == "choice" and isinstance(value, Sequence) and not isinstance(value, str) and value:
        if all(isinstance(each, str) and each for each in value):
            return Grammar("choice", json.dumps(list(value)), param)
    elif isinstance(value, str) and name == "regex":
        return Grammar("regex", value, param)
    elif isinstance(value, str) and name == "grammar":
        return Grammar("grammar", value, param)
    raise InvalidRequest(f"The {name} of {param} is {str(value)[:64]!r}", hint=_HINT, param=param)
