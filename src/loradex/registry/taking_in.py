"""Takes an adapter into a registry where no engine runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from loradex.core.adapter import AdapterRef
from loradex.core.defaults import Defaults
from loradex.core.model import ModelInfo
from loradex.errors import LoradexError
from loradex.registry.registry import Registry
from loradex.registry.sources.fetch import pinned
from loradex.registry.sources.room import Told


def take_in(
    registry: Registry,
    name: str,
    source: str,
    base: Callable[[Path], ModelInfo],
    *,
    max_rank: int,
    limit: int,
    allow_pickle: bool = False,
    sha256: str = "",
    defaults: Defaults | None = None,
    canary: float | None = None,
    actor: str = "",
    told: Told | None = None,
) -> AdapterRef:
    """Fetch, check and register the adapter at `source` as the next version of `name`, which means it from then on.

    Args:
        registry: where it goes.
        name: new, or the name whose next version it is.
        source: path or address.
        base: returns the base model of the adapter in a folder.
        max_rank: adapters above it are refused.
        limit: bytes that are fetched at most.
        allow_pickle: accept `.bin` weights.
        sha256: the only digest, or SHA-256 of the only file, that is accepted; empty for any.
        defaults: what requests may leave out; None for what they may leave out now.
        canary: percent of the requests that it gets, while the name goes on to mean what it means.
        actor: who asks, for the history.
        told: progress of the download.

    Raises:
        FilesNotFound, SourceFailed, AdapterInvalid: about the source and what lies there.
        InvalidRequest, Conflict, RegistryFailed: see `Registry.commit`. Nothing stays behind.
    """
    pin = pinned(sha256)
    with registry.fetched(source, limit, told=told) as found:
        staged = registry.stage(
            found.path,
            base(found.path),
            max_rank=max_rank,
            allow_pickle=allow_pickle,
            origin=found.origin,
            sha256="" if pin and found.is_file(pin) else pin,
        )
    try:
        given = replace(staged, defaults=defaults)
        return registry.commit(name, given, actor=actor, serve=canary is None, canary=canary)
    except LoradexError:
        registry.discard(staged)
        raise
