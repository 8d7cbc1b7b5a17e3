"""The keyword router: words and patterns speak for adapters, and the one with the most of them answers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from loradex.core.adapter import BASE
from loradex.errors import ConfigInvalid
from loradex.routing.decision import Decision
from loradex.routing.route import Route, adapters

THRESHOLD = 0.5
"""Share of what was found that must speak for one adapter."""


class Words:
    """Counts the different words and patterns of each route in a prompt. Of a tie the earlier route is taken.

    Args:
        routes: in the order in which ties are broken.
        threshold: share of all that was found that must speak for one adapter, 0 to 1.

    Raises:
        ConfigInvalid: there is no word at all, or a pattern is no regular expression.
    """

    def __init__(self, routes: Sequence[Route], threshold: float | None = None) -> None:
        self._threshold = THRESHOLD if threshold is None else threshold
        self._tests = {route.name: list(_tests(route)) for route in adapters(routes)}
        if not any(self._tests.values()):
            raise ConfigInvalid(
                "No route has words or patterns", hint="Give `words` to the routes, or another `policy`"
            )

    def decide(self, text: str) -> Decision:
        """Decide on one prompt."""
        found = {name: [what for what, test in tests if test.search(text)] for name, tests in self._tests.items()}
        total = sum(map(len, found.values()))
        if not total:
            return Decision(BASE, 1.0, "no word of any adapter", dict.fromkeys(found, 0.0), "unknown")
        scores = {name: len(hits) / total for name, hits in found.items()}
        best = max(scores, key=scores.__getitem__)
        said = "; ".join(f"{name}: {', '.join(f'`{hit}`' for hit in hits)}" for name, hits in found.items() if hits)
        if scores[best] < self._threshold:
            return Decision(BASE, 1.0 - scores[best], f"words of several adapters ({said})", scores, "unsure")
        return Decision(best, scores[best], f"words of {said}", scores)


def _tests(route: Route) -> Iterator[tuple[str, re.Pattern[str]]]:
    for word in route.words:
        # Whole words: `law` is not in `flaw`, nor `pain` in `paint`.
        yield word, re.compile(rf"(?<!\w){re.escape(word)}(?:e?s)?(?!\w)", re.IGNORECASE)
    for pattern in route.patterns:
        try:
            yield pattern, re.compile(pattern, re.IGNORECASE)
        except re.error as error:
            raise ConfigInvalid(
                f"The pattern {pattern!r} of `{route.name}` is no regular expression: {error}"
            ) from None
