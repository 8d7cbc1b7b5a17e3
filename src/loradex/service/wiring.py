"""From settings to a service: the registry and the engine that they name, put together."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from loradex.adapters.packs import FOLDER
from loradex.engine.built import within
from loradex.engine.factory import make_engine
from loradex.errors import ConfigInvalid
from loradex.registry.registry import Registry
from loradex.registry.sources.address import is_url, located
from loradex.service.lookup import Resolver, from_folder, from_python
from loradex.service.memory import with_memory
from loradex.service.service import Service
from loradex.service.trial import Rule
from loradex.settings import Settings


def make_service(settings: Settings) -> Service:
    """Put registry and engine together. Nothing is started.

    Raises:
        ConfigInvalid: no model is named, there is no such engine, or a share of memory is too small.
        MissingExtra: the engine needs a package that is not installed.
        RegistryFailed: the store cannot be opened.
    """
    if not settings.engine.model:
        raise ConfigInvalid("No base model is named", hint="loradex serve MODEL, where MODEL is a folder or a hub id")
    settings = replace(settings, engine=within(settings.engine))
    settings = with_memory(settings)
    packs = settings.engine.pack_dir or settings.home / FOLDER
    named = [located(each) for each in settings.checked_adapters]
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
        allow_dirs=(*settings.server.allow_dirs, *(Path(each) for each in named if not is_url(each))),
        allow_urls=(*settings.server.allow_urls, *filter(is_url, named)),
        max_adapter_size=settings.max_adapter_size,
        load_share=settings.engine.load_share,
        watch=settings.watch,
        settle_seconds=settings.watch_settle,
        resolvers=resolvers(settings),
        router=settings.router,
        max_queue_seconds=settings.queue_timeout,
    )


def resolvers(settings: Settings) -> list[Resolver]:
    """Return what is asked for unknown names, in order: the folder first.

    Raises:
        ConfigInvalid: the resolver cannot be imported, or the folder does not exist.
    """
    if settings.lora_dir is not None and not settings.lora_dir.is_dir():
        raise ConfigInvalid(f"The folder {settings.lora_dir} does not exist", hint="Make it, or drop `--lora-dir`")
    folder = [from_folder(settings.lora_dir)] if settings.lora_dir is not None else []
    return [*folder, *([from_python(settings.resolver)] if settings.resolver else [])]
