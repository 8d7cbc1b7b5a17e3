"""From settings to a service with its adapters; what `serve` and `demo` both stand on."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from loradex.adapters.packs import FOLDER
from loradex.errors import AdapterInvalid, ConfigInvalid, LoradexError, Problem
from loradex.registry.sources.address import located
from loradex.settings import Settings

if TYPE_CHECKING:
    from loradex.engine.base import Progress
    from loradex.service.lookup import Resolver
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
    from loradex.service.trial import Rule

    if not settings.engine.model:
        raise ConfigInvalid("No base model is named", hint="loradex serve MODEL, where MODEL is a folder or a hub id")
    packs = settings.engine.pack_dir or settings.home / FOLDER
    engine = make_engine(settings.engine_name, replace(settings.engine, pack_dir=packs))
    return Service(
        Registry(settings.home),
        engine,
        max_lora_rank=settings.engine.max_lora_rank,
        max_loras=settings.engine.max_loras,
        adapter_memory=settings.adapter_memory,
        adapter_host_memory=settings.adapter_host_memory,
        adapter_ttl=settings.adapter_ttl,
        rule=Rule(settings.rollback_requests, settings.rollback_error_rate, settings.rollback_window),
        shadow_log_size=settings.shadow_log_size,
        allow_dirs=settings.server.allow_dirs,
        allow_urls=settings.server.allow_urls,
        max_adapter_size=settings.max_adapter_size,
        watch=settings.watch,
        settle_seconds=settings.watch_settle,
        resolvers=resolvers(settings),
        max_queue_seconds=settings.queue_timeout,
    )


def resolvers(settings: Settings) -> list[Resolver]:
    """Return what is asked for unknown names, in order: the folder first.

    Raises:
        ConfigInvalid: the resolver cannot be imported, or the folder does not exist.
    """
    from loradex.service.lookup import from_folder, from_python

    if settings.lora_dir is not None and not settings.lora_dir.is_dir():
        raise ConfigInvalid(f"The folder {settings.lora_dir} does not exist", hint="Make it, or drop `--lora-dir`")
    folder = [from_folder(settings.lora_dir)] if settings.lora_dir is not None else []
    return [*folder, *([from_python(settings.resolver)] if settings.resolver else [])]


async def add_adapters(service: Service, settings: Settings, progress: Progress) -> None:
    """Add every adapter, load as many as there is room for, and pin those that are to be.

    All are tried, so that one run shows every refusal.

    Raises:
        LoradexError: one was refused.
        AdapterInvalid: several were; it has all their problems.
    """
    refused: dict[str, LoradexError] = {}
    for index, (name, source) in enumerate(settings.adapters.items()):
        progress(f"adapter {name}", 0.0)
        told = partial(_told, progress, f"adapter {name}")
        load = index < settings.engine.max_loras and not service.residency.evictions
        try:
            await service.adapters.add(name, located(source), load=load, trusted=True, actor="serve", progress=told)
        except LoradexError as error:
            refused[name] = error
        progress(f"adapter {name}", 1.0)
    if len(refused) == 1:
        raise next(iter(refused.values()))
    if refused:
        problems = [problem for name, error in refused.items() for problem in _problems(name, error)]
        raise AdapterInvalid(f"{len(refused)} of {len(settings.adapters)} adapters cannot be served", problems)
    for reference in settings.pinned:
        await service.residents.pin(reference, actor="serve")


def _told(progress: Progress, what: str, stage: str, share: float) -> None:
    progress(f"{what}: {stage}" if stage.startswith("download") else what, share)


def _problems(name: str, error: LoradexError) -> list[Problem]:
    if isinstance(error, AdapterInvalid) and error.problems:
        return [Problem(each.code, f"{name}: {each.what}", each.fix) for each in error.problems]
    return [Problem(error.code, f"{name}: {error.message}", error.hint)]
