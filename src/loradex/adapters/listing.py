"""How a message names many things: the first few, then how many more."""

from __future__ import annotations

from collections.abc import Iterable

SHOWN = 5


def listed(names: Iterable[str]) -> str:
    """Return the first five names, each in backticks, and the number of the others."""
    quoted = [f"`{printable(name)}`" for name in names]
    more = f" and {len(quoted) - SHOWN} more" if len(quoted) > SHOWN else ""
    return ", ".join(quoted[:SHOWN]) + more


def printable(name: str) -> str:
    """Return a name from a file as it may stand in a message: one line, no control characters, not endless."""
    shown = name if name.isprintable() else ascii(name)[1:-1]
    return shown if len(shown) <= 160 else shown[:157] + "..."
