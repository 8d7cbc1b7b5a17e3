"""Holds answers to a form: which tokens may come next, worked out by llguidance."""

from __future__ import annotations

import json
import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from functools import cache
from typing import Any, Final

import numpy as np
from llguidance import LLExecutor, LLMatcher, LLTokenizer, grammar_from
from numpy.typing import NDArray
from tokenizers import Tokenizer

from loradex.core.grammar import Grammar
from loradex.errors import EngineFailed, InvalidRequest, Unsupported

KEPT: Final = 64
"""Compiled grammars that are remembered: an application has few, and sends them again and again."""

_SPACES: Final = " ?"
"""Between the parts of JSON. With no bound, a model that has nothing more to say writes spaces until its limit."""

_NAMED: Final = frozenset(("properties", "patternProperties", "$defs", "definitions"))
_KEPT_OPEN: Final = frozenset(("allOf", "const", "enum", "default", "examples"))


class Constraint:
    """Where one answer is in its grammar."""

    def __init__(self, matcher: LLMatcher, words: int) -> None:
        self._matcher = matcher
        self._words = words
        self.complete = matcher.is_stopped()
        """Whether the answer can only end here."""

    def take(self, token: int) -> None:
        """Go on by a token that was chosen.

        Raises:
            EngineFailed: the grammar cannot be followed any further, because it takes too much work.
        """
        if not self._matcher.consume_token(token):
            reason = self._matcher.get_error().partition("\n")[0]
            raise EngineFailed(
                f"The answer left the form that it was asked for: {reason}", hint="Ask for a simpler schema or pattern"
            )
        self.complete = self._matcher.is_stopped()


def masks(constraints: Sequence[Constraint]) -> NDArray[np.int32]:
    """Return which tokens may come next, one bit each, in one row for each constraint; several are worked out at once.

    All of them are of one tokenizer.
    """
    words = np.zeros((len(constraints), constraints[0]._words), dtype=np.int32)
    matchers = [(constraint._matcher, row) for row, constraint in enumerate(constraints)]
    if len(matchers) == 1:  # a thread that has to wake up takes longer than most masks
        constraints[0]._matcher.unsafe_compute_mask_ptr(words.ctypes.data, words.nbytes)
    else:
        _executor().unsafe_compute_mask_ptr(matchers, words.ctypes.data, words.shape[1] * words.itemsize, len(words))
    return words


@cache
def _executor() -> LLExecutor:
    return LLExecutor(os.cpu_count())


class Constraints:
    """Compiles grammars for one tokenizer. Safe from several threads.

    Args:
        tokenizer: of the model.
        vocab_size: width of the model's logits.
        eos: tokens that end an answer.
    """

    def __init__(self, tokenizer: Tokenizer, vocab_size: int, eos: tuple[int, ...]) -> None:
        self._tokenizer = tokenizer
        self._eos = eos
        self._size = max(vocab_size, tokenizer.get_vocab_size(with_added_tokens=True))
        self._known: LLTokenizer | None = None
        self._compiled: OrderedDict[Grammar, LLMatcher] = OrderedDict()
        self._lock = threading.Lock()

    def begin(self, grammar: Grammar) -> Constraint:
        """Return the constraint of a new answer. Blocks while a new grammar is compiled, for milliseconds as a rule.

        Raises:
            InvalidRequest: the grammar has a mistake, or something that cannot be followed.
            Unsupported: no grammar can be followed with this tokenizer.
        """
        with self._lock:
            matcher = self._compiled.get(grammar)
            if matcher is None:
                matcher = self._compiled[grammar] = self._compile(grammar)
            self._compiled.move_to_end(grammar)
            while len(self._compiled) > KEPT:
                self._compiled.popitem(last=False)
            return Constraint(matcher.deep_copy(), -(-self._size // 32))

    def _compile(self, grammar: Grammar) -> LLMatcher:
        hint = f"Leave out or write otherwise in `{grammar.param}` what is named here"
        try:
            matcher = LLMatcher(self._vocabulary(), _source(grammar), log_level=0)
        except ValueError as error:
            raise InvalidRequest(f"{grammar.param} cannot be used: {error}", hint=hint, param=grammar.param) from error
        if matcher.is_error():
            reason = " ".join(matcher.get_error().split())
            raise InvalidRequest(f"{grammar.param} cannot be used: {reason[:500]}", hint=hint, param=grammar.param)
        return matcher

    def _vocabulary(self) -> LLTokenizer:
        if self._known is None:
            copy = Tokenizer.from_str(self._tokenizer.to_str())
            copy.no_padding()
            copy.no_truncation()
            try:
                self._known = LLTokenizer(copy.to_str(), n_vocab=self._size, eos_token=list(self._eos) or None)
            except ValueError as error:
                raise Unsupported(
                    f"Answers cannot be held to a form with this model's tokenizer: {error}",
                    hint="Leave it out, and say in the prompt what the answer should look like",
                ) from error
        return self._known


def _source(grammar: Grammar) -> str:
    if grammar.kind == "json":
        schema = json.dumps(_closed(json.loads(grammar.text)))
        return LLMatcher.grammar_from_json_schema(schema, overrides={"whitespace_pattern": _SPACES})
    if grammar.kind == "choice":
        # As a schema's `enum` they would be JSON, with quotation marks.
        return LLMatcher.grammar_from_lark("start: " + " | ".join(map(json.dumps, json.loads(grammar.text))))
    return grammar_from(grammar.kind, grammar.text)


def _closed(schema: Any) -> Any:
    """Return a schema whose objects have no other properties than those that it names, unless it says that they may.

    To write what nobody asked for, a model would need no end. Parts of `allOf` are left open: closed, they would
    exclude one another.
    """
    if isinstance(schema, list):
        return [_closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {
        key: {name: _closed(each) for name, each in value.items()}
        if key in _NAMED and isinstance(value, dict)
        else value
        if key in _KEPT_OPEN
        else _closed(value)
        for key, value in schema.items()
    }
    if "properties" in schema and not schema.keys() & {"additionalProperties", "unevaluatedProperties", "allOf"}:
        closed["additionalProperties"] = False
    return closed
