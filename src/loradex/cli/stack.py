"""The adapters that a server starts with; what `serve` and `demo` both stand on."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from loradex.errors import AdapterInvalid, LoradexError, Problem
from loradex.registry.sources.address import located
from loradex.service.promised import check_promised
from loradex.settings import Settings

if TYPE_CHECKING:
    from loradex.engine.base import Progress
    from loradex.service.service import Service


async def add_adapters(service: Service, settings: Settings, progress: Progress) -> None:
    """Add every adapter, load as many as there is room for, and pin those that are to be.

    All are tried, so that one run shows every refusal.

    Raises:
        ConfigInvalid, FilesNotFound, SourceFailed: see `check_promised`.
        LoradexError: one was refused.
        AdapterInvalid: several were; it has all their problems.
    """
    await check_promised(service, settings.target_modules, settings.checked_adapters)
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
