"""Fields of a JSON object, each with its type and default."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from loradex.errors import InvalidRequest


def flag(given: Mapping[str, Any], name: str, *, default: bool) -> bool:
    """Return a truth value. Raises InvalidRequest for anything else."""
    value = given.get(name, default)
    if not isinstance(value, bool):
        raise InvalidRequest(f"`{name}` is {value!r}", hint="Give true or false", param=name)
    return value


def number(given: Mapping[str, Any], name: str, default: float) -> float:
    """Return a number. Raises InvalidRequest for anything else."""
    value = given.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidRequest(f"`{name}` is {value!r}", hint=f"Give a number, such as {default:g}", param=name)
    return float(value)


def whole(given: Mapping[str, Any], name: str, default: int, *, least: int) -> int:
    """Return a whole number of at least `least`. Raises InvalidRequest for anything else."""
    value = given.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InvalidRequest(
            f"`{name}` is {value!r}", hint=f"Give a whole number of at least {least}, such as {default}", param=name
        )
    return value
