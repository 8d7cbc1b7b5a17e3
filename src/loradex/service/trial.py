"""When a new version fails so often that the one before it has to answer again. Pure: told what happened and when."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from math import inf

from loradex.core.adapter import AdapterRef
from loradex.errors import AdapterDamaged, EngineFailed, LoradexError

BLAMED = frozenset((AdapterDamaged.code, EngineFailed.code, LoradexError.code))
"""Outcomes that speak against a version; every other error is the request's, or that of the whole server."""

ANSWERED = frozenset(("stop", "length"))


@dataclass(frozen=True, slots=True)
class Rule:
    """When a version is rolled back.

    Attributes:
        requests: so many of its requests, the last ones, are looked at; fewer decide nothing.
        share: the part of them that may fail; 1 never rolls back.
        seconds: how long a version is looked at after a name began to mean it; in a canary, as long as that runs.
    """

    requests: int = 20
    share: float = 0.5
    seconds: float = 600.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """A version that failed its trial."""

    ref: AdapterRef
    failed: int
    requests: int

    def __str__(self) -> str:
        return f"{self.failed} of its last {self.requests} requests failed"


@dataclass(slots=True)
class _Trial:
    until: float
    failures: deque[bool] = field(default_factory=deque)


class Trials:
    """The versions that are looked at, each with the outcomes of its last requests."""

    def __init__(self, rule: Rule) -> None:
        self._rule = rule
        self._trials: dict[AdapterRef, _Trial] = {}

    def begin(self, ref: AdapterRef, now: float) -> None:
        """Look at a version from now on, because its name means it now; other versions of the name are let go."""
        for other in [each for each in self._trials if each.name == ref.name]:
            del self._trials[other]
        self._trials[ref] = _Trial(now + self._rule.seconds)

    def observe(self, ref: AdapterRef, outcome: str, now: float, *, canary: bool) -> Verdict | None:
        """Take note of how a request ended; return the verdict, once, when that was one failure too many.

        `canary` says that the version answers part of its name's requests beside another one.
        """
        trial = self._trials.get(ref)
        if trial is not None and now > trial.until and not canary:
            del self._trials[ref]
            trial = None
        if trial is None:
            if not canary:
                return None
            trial = self._trials[ref] = _Trial(-inf)  # as soon as it is no canary any more it is let go
        if outcome not in BLAMED and outcome not in ANSWERED:
            return None
        trial.failures.append(outcome in BLAMED)
        if len(trial.failures) > self._rule.requests:
            trial.failures.popleft()
        failed = sum(trial.failures)
        if len(trial.failures) < self._rule.requests or failed <= self._rule.share * self._rule.requests:
            return None
        del self._trials[ref]
        return Verdict(ref, failed, self._rule.requests)
