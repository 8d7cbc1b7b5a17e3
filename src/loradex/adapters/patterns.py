"""`rank_pattern` and `alpha_pattern`: regular expressions from a file that may come from anywhere."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from loradex.adapters.listing import listed
from loradex.errors import Problem

MAX_PATTERNS = 20_000
MAX_LENGTH = 300

# A repeated group, or many choices in a row, can make matching take for ever; what PEFT writes has neither.
_REPEATED_GROUP = re.compile(r"\)\s*[*+{]")
_LIMITS = ((re.compile(r"[*+{]"), 3), (re.compile(r"[?(]"), 6))
_PLAIN = re.compile(r"\^?[A-Za-z0-9_.]+")


@dataclass(frozen=True, slots=True)
class Patterns:
    """Patterns in their order with their values; the first that matches a module decides."""

    values: tuple[tuple[re.Pattern[str], float], ...] = ()

    @classmethod
    def parse(cls, option: str, table: Mapping[str, Any], whole: bool) -> tuple[Patterns, list[Problem]]:
        """Parse a table of pattern to value; `whole` wants whole numbers above 0. Bad entries come back as problems."""
        if len(table) > MAX_PATTERNS:
            return cls(), [_problem(option, f"has {len(table)} patterns, above the limit of {MAX_PATTERNS}")]
        compiled = {key: _compile(key) for key in table}
        fits = is_rank if whole else is_number
        broken = [key for key, pattern in compiled.items() if pattern is None]
        wrong = [key for key, value in table.items() if not fits(value)]
        problems = []
        if broken:
            problems.append(_problem(option, f"has patterns that are broken or could match for ever: {listed(broken)}"))
        if wrong:
            wanted = "whole numbers above 0" if whole else "numbers"
            problems.append(_problem(option, f"has values that are not {wanted}, for {listed(wrong)}"))
        if problems:
            return cls(), problems
        return cls(tuple((pattern, table[key]) for key, pattern in compiled.items() if pattern)), []

    def get(self, module: str, default: float) -> float:
        """Return the value of the first pattern that matches the whole module path or its end after a dot."""
        return next((value for pattern, value in self.values if pattern.match(module)), default)


def is_number(value: Any) -> bool:
    """Whether `value` is a finite number, as JSON reads them."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e30


def is_rank(value: Any) -> bool:
    """Whether `value` can be the rank of a matrix."""
    return type(value) is int and 0 < value < 2**31


def _compile(key: str) -> re.Pattern[str] | None:
    if len(key) > MAX_LENGTH:
        return None
    if not _PLAIN.fullmatch(key):
        many = any(len(sign.findall(key)) > limit for sign, limit in _LIMITS)
        if many or _REPEATED_GROUP.search(key):
            return None
    try:
        return re.compile(rf"(.*\.)?({key})$")  # exactly what PEFT matches with
    except (re.error, OverflowError, RecursionError):
        return None


def _problem(option: str, what: str) -> Problem:
    return Problem("bad_config", f"`{option}` in adapter_config.json {what}", "Correct it, or save the adapter again")
