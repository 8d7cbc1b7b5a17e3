"""`model="auto"`: the prompt chooses the adapter, by a router that follows its file and the adapters that are there."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from loradex.core.adapter import AUTO, BASE
from loradex.core.defaults import NO_DEFAULTS, Defaults
from loradex.core.prompt import ChatPrompt, Prompt
from loradex.errors import InvalidRequest, LoradexError, ModelNotFound
from loradex.routing.decision import Decision, Policy
from loradex.routing.plan import Plan, read_plan
from loradex.routing.route import Route
from loradex.routing.router import make_policy
from loradex.service.embedding import Embedder
from loradex.service.metrics import Metrics
from loradex.service.names import Names

log = logging.getLogger(__name__)

Mark = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Routed:
    """A decision, the policy that made it, and what requests that go there may leave out."""

    decision: Decision
    policy: str
    defaults: Defaults = NO_DEFAULTS


@dataclass(frozen=True, slots=True)
class _Ready:
    """A policy with what it was made of."""

    mark: tuple[Mark, frozenset[str]]
    plan: Plan
    policy: Policy | None


class Routing:
    """Decides on prompts, and learns anew when the file, a file of examples in it, or the adapters change.

    Args:
        file: the router's file; None for no routing.
        names: whose adapters can be chosen.
        metrics: counts the decisions.
        embedder: makes vectors by the base, where the file says so.
        clock: seconds from any start.
    """

    def __init__(
        self, file: Path | None, names: Names, metrics: Metrics, embedder: Embedder, clock: Callable[[], float]
    ) -> None:
        self._file = file
        self._names = names
        self._metrics = metrics
        self._embedder = embedder
        self._clock = clock
        self._ready: _Ready | None = None
        self._files: tuple[Path, ...] = ()
        self._alone = asyncio.Lock()

    async def start(self) -> None:
        """Look whether the file can be read. The router is made at the first request, when the adapters are there.

        Raises:
            FilesNotFound, ConfigInvalid, InvalidRequest: it is wrong.
        """
        if self._file is not None:
            await asyncio.to_thread(read_plan, self._file)

    async def decide(self, text: str) -> Routed:
        """Decide on a prompt.

        Raises:
            ModelNotFound: the server has no router.
            FilesNotFound, ConfigInvalid, InvalidRequest: the router's file was wrong from the start.
            MissingExtra: the policy needs a package that is not installed.
        """
        ready = await self._current()
        began = self._clock()
        if ready.policy is None:
            decision = Decision(BASE, 1.0, "there is no adapter yet that the router knows", why="unknown")
        else:
            decision = await asyncio.to_thread(ready.policy.decide, text)
        seconds = self._clock() - began
        self._metrics.routed(ready.plan.chosen, decision.adapter, decision.why, decision.score, seconds)
        defaults = {route.name: route.defaults for route in ready.plan.routes}
        return Routed(decision, ready.plan.chosen, defaults.get(decision.adapter, NO_DEFAULTS))

    async def _current(self) -> _Ready:
        """Return the policy for how things are now; who asks while it is made waits, which takes a second or so."""
        if self._file is None:
            raise ModelNotFound(
                f"The model `{AUTO}` does not exist: this server has no router",
                hint="Start it with `--router FILE`, or name an adapter",
                param="model",
            )
        async with self._alone:
            known = frozenset(record.name for record in self._names.records() if record.enabled)
            files = self._files or (self._file,)
            mark = (await asyncio.to_thread(_mark, files), known)
            if self._ready is None or self._ready.mark != mark:
                self._ready = await self._made(self._file, known, mark)
            return self._ready

    async def _made(self, file: Path, known: frozenset[str], mark: tuple[Mark, frozenset[str]]) -> _Ready:
        began = self._clock()
        try:
            plan = await asyncio.to_thread(read_plan, file)
            routes = tuple(route for route in plan.routes if route.name == BASE or route.name in known)
            plan = replace(plan, routes=routes)
            encode = self._embedder.encoder()
            policy = await asyncio.to_thread(make_policy, plan, encode) if _can_decide(routes) else None
        except LoradexError as error:
            if self._ready is None:
                raise
            # A slip in a file must not take down what works; the adapters that it knew are checked when they answer.
            log.warning("the router stays as it was: %s", error.message)
            return replace(self._ready, mark=mark)
        self._files = (file, *plan.files)
        log.info("the router decides by %s, made in %.2f s", plan.chosen, self._clock() - began)
        return _Ready((await asyncio.to_thread(_mark, self._files), known), plan, policy)


def asked_text(prompt: Prompt) -> str:
    """Return what a router looks at: the text, or the last turn of the user's.

    Raises:
        InvalidRequest: there is only a list of tokens, or nobody has asked anything.
    """
    if isinstance(prompt, str):
        return prompt
    turns = prompt.messages if isinstance(prompt, ChatPrompt) else ()
    for message in reversed(turns):
        if message.role == "user":
            return message.content
    raise InvalidRequest(
        f"`{AUTO}` chooses by text, and this prompt has none of a user", hint="Name an adapter", param="model"
    )


def _can_decide(routes: tuple[Route, ...]) -> bool:
    return any(route.name != BASE for route in routes)


def _mark(files: tuple[Path, ...]) -> Mark:
    """Return what changes when one of the files does."""
    return tuple(_seen(file) for file in files)


def _seen(file: Path) -> tuple[int, int]:
    try:
        found = os.stat(file)
    except OSError:
        return (0, 0)
    return found.st_mtime_ns, found.st_size
