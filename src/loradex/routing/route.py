"""What is known of each adapter that a router may choose."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from loradex.core.adapter import BASE
from loradex.core.defaults import NO_DEFAULTS, Defaults


@dataclass(frozen=True, slots=True)
class Example:
    """A prompt, and the adapter that should answer it; `base` for none."""

    text: str
    label: str


@dataclass(frozen=True, slots=True)
class Route:
    """One adapter, or `base`, as a router sees it.

    Attributes:
        name: of the adapter, or `base`.
        description: what it is for: words and phrases, from which what is trained learns too.
        words: whole words or phrases that speak for it, in any case and with a plural `s`.
        patterns: regular expressions that speak for it, in any case.
        examples: prompts that it should answer.
        defaults: what its requests leave out: the system prompt of conversations without one, fields of sampling.
    """

    name: str
    description: str = ""
    words: tuple[str, ...] = ()
    patterns: tuple[str, ...] = ()
    examples: tuple[str, ...] = ()
    defaults: Defaults = NO_DEFAULTS


def with_examples(routes: Iterable[Route], examples: Iterable[Example]) -> tuple[Route, ...]:
    """Return the routes with more examples; labels that have no route yet become one."""
    found = {route.name: route for route in routes}
    added: dict[str, list[str]] = {}
    for example in examples:
        added.setdefault(example.label, []).append(example.text)
    for name, texts in added.items():
        route = found.get(name, Route(name))
        found[name] = replace(route, examples=(*route.examples, *texts))
    return tuple(found.values())


def lessons(routes: Iterable[Route]) -> Mapping[str, tuple[str, ...]]:
    """Return the examples of each route that has any."""
    return {route.name: route.examples for route in routes if route.examples}


def adapters(routes: Iterable[Route]) -> tuple[Route, ...]:
    """Return the routes without `base`."""
    return tuple(route for route in routes if route.name != BASE)
