"""From settings to a service with its adapters; what `serve` and `demo` both stand on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from loradex.adapters.packs import FOLDER
from loradex.errors import AdapterInvalid, ConfigInvalid, LoradexError, Problem
from loradex.settings import Settings

if TYPE_CHECKING:
    from loradex.engine.base import Progress
    from loradex.service.service import Service


def make_service(settings: Settings) -> Service:
    """Put registry and engine together. Nothing is started.

    Raises:
        ConfigInvalid: no model is named, or there is no such engine.
        MissingExtra: the engine needs a package that is not installed.
        RegistryFailed: the store cannot be opened.
    """
    from loradex.engine.factory import make_engine
    from loradex.registry.registry import Registry
    from loradex.service.service import Service

    if not settings.engine.model:
        raise ConfigInvalid("No base model is named", hint="loradex serve MODEL, where MODEL is a folder or a hub id")
    packs = settings.engine.pack_dir or settings.home / FOLDER
    engine = make_engine(settings.engine_name, replace(settings.engine, pack_dir=packs))
    return Service(
        Registry(settings.home),
        engine,
        max_lora_rank=settings.engine.max_lora_rank,
        max_loras=settings.engine.max_loras,
        allow_dirs=settings.server.allow_dirs,
        max_queue_seconds=settings.queue_timeout,
    )


async def add_adapters(service: Service, adapters: Mapping[str, Path], max_loras: int, progress: Progress) -> None:
    """Add every adapter; the first `max_loras` are loaded too. All are tried, so that one run shows every refusal.

    Raises:
        LoradexError: one was refused.
        AdapterInvalid: several were; it has all their problems.
    """
    refused: dict[str, LoradexError] = {}
    for index, (name, path) in enumerate(adapters.items()):
        progress(f"adapter {name}", 0.0)
        told = partial(_told, progress, f"adapter {name}")
        try:
            await service.adapters.add(
                name, path.resolve(), load=index < max_loras, trusted=True, actor="serve", progress=told
            )
        except LoradexError as error:
            refused[name] = error
        progress(f"adapter {name}", 1.0)
    if len(refused) == 1:
        raise next(iter(refused.values()))
    if refused:
        problems = [problem for name, error in refused.items() for problem in _problems(name, error)]
        raise AdapterInvalid(f"{len(refused)} of {len(adapters)} adapters cannot be served", problems)


def _told(progress: Progress, what: str, _: str, share: float) -> None:
    progress(what, share)


def _problems(name: str, error: LoradexError) -> list[Problem]:
    if isinstance(error, AdapterInvalid) and error.problems:
        return [Problem(each.code, f"{name}: {each.what}", each.fix) for each in error.problems]
    return [Problem(error.code, f"{name}: {error.message}", error.hint)]
