"""From what somebody names to an adapter that is fetched, checked and stored, but not registered."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from loradex.adapters.check import CheckReport
from loradex.adapters.rest import SHARE, Rest
from loradex.core.defaults import Defaults
from loradex.engine.base import Engine, Progress
from loradex.registry.records import Staged
from loradex.registry.registry import Registry
from loradex.registry.sources.access import EVERYWHERE, Access
from loradex.registry.sources.fetch import Fetched, Upload, pinned

MAX_ADAPTER_SIZE = 4 << 30

Source = str | Path | Upload
"""A path of this machine, an address, or what a client sent."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What is to be taken in.

    Attributes:
        source: what was named.
        trusted: by the operator, who may name everything.
        allow_pickle: accept `.bin` weights.
        sha256: the only digest, or SHA-256 of the only file, that is accepted; empty for any.
        defaults: what requests may leave out; None for what they may leave out now.
    """

    source: Source
    trusted: bool
    allow_pickle: bool
    sha256: str = ""
    defaults: Defaults | None = None


class GivenUp(Exception):
    """Nobody waits for it any more."""


class Intake:
    """Fetches, checks and stages. Its methods block: they run in threads, until the event `gone` is set.

    Args:
        registry: where it is stored.
        engine: for whose base model it is; while it works, files are copied bit by bit.
        max_rank: adapters above it are refused.
        access: from where callers who are not trusted may have read.
        limit: bytes of one source at most.
        share: of one core, taken while the engine works.
    """

    def __init__(
        self,
        registry: Registry,
        engine: Engine,
        max_rank: int,
        access: Access,
        limit: int,
        share: float = SHARE,
    ) -> None:
        self._registry = registry
        self._engine = engine
        self._max_rank = max_rank
        self._access = access
        self._limit = limit
        self._share = share

    def stage(self, asked: Asked, progress: Progress | None, gone: threading.Event) -> Staged:
        """Fetch an adapter, check it and copy it into the store.

        Raises what `Registry.stage` and `fetched` do, and GivenUp.
        """
        pin, rest = pinned(asked.sha256), self._rest(gone)
        with self._fetched(asked, progress, rest) as found:
            staged = self._registry.stage(
                found.path,
                self._engine.info,
                max_rank=self._max_rank,
                allow_pickle=asked.allow_pickle,
                allowed=found.allowed,
                origin=found.origin,
                sha256="" if pin and found.is_file(pin) else pin,
                rest=rest,
            )
        return replace(staged, defaults=asked.defaults)

    def check(self, asked: Asked, gone: threading.Event) -> CheckReport:
        """Fetch an adapter and check it; nothing stays behind.

        Raises what `Registry.check` and `fetched` do, and GivenUp.
        """
        with self._fetched(asked, None, self._rest(gone)) as found:
            return self._registry.check(
                found.path,
                self._engine.info,
                max_rank=self._max_rank,
                allow_pickle=asked.allow_pickle,
                allowed=found.allowed,
            )

    @contextmanager
    def _fetched(self, asked: Asked, progress: Progress | None, rest: Callable[[], None]) -> Iterator[Fetched]:
        source = os.fspath(asked.source) if isinstance(asked.source, Path) else asked.source
        access = EVERYWHERE if asked.trusted else self._access
        with self._registry.fetched(source, self._limit, access=access, told=progress, rest=rest) as found:
            yield found

    def _rest(self, gone: threading.Event) -> Callable[[], None]:
        rest = Rest(lambda: self._engine.stats().running > 0, self._share)

        def pause() -> None:
            if gone.is_set():
                raise GivenUp
            rest()

        return pause
