"""Checks a configuration and registers its adapters, before anything of it takes memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

from loradex.adapters.base_model import read_model_info
from loradex.arguments.arguments import as_settings
from loradex.errors import LoradexError
from loradex.llm.llm import LLM
from loradex.llm.lora_request import LoRARequest
from loradex.manager.configuration import SUFFIX, Configuration
from loradex.registry.registry import Registry
from loradex.registry.taking_in import take_in
from loradex.service.memory import base_folder, check_memory, with_memory
from loradex.settings import Settings

_NOT_SETTINGS: Final = frozenset(("enable_lora", "seed"))
"""Arguments of `LLM` that are no settings."""


def prepare(configuration: Configuration, home: Path, running: LLM | None) -> None:
    """Check everything, then register every adapter: with the LLM that runs, or in the registry at `home`.

    Raises:
        ConfigInvalid, Unsupported, MemoryShort: about the base and the arguments.
        FilesNotFound, AdapterInvalid, SourceFailed: about an adapter; the hint says which argument named it.
    """
    arguments = {name: each for name, each in configuration.arguments.items() if name not in _NOT_SETTINGS}
    flags = {"engine.model": configuration.base, "home": home}
    settings = with_memory(Settings.read(flags | as_settings(arguments, configuration.base)))
    if running is None:
        check_memory(settings)
    base, rank = read_model_info(base_folder(settings)), settings.engine.max_lora_rank
    with closing(Registry(home)) as registry:
        for name, path in configuration.adapters.items():
            with _named(name), registry.fetched(path, settings.max_adapter_size) as found:
                registry.check(found.path, base, max_rank=rank, allow_pickle=True).raise_if_bad(name)
        for name, path in configuration.adapters.items():
            with _named(name):
                if running is not None:
                    running.add_lora(LoRARequest(name, lora_path=path, load_inplace=True))
                else:
                    limit = settings.max_adapter_size
                    take_in(registry, name, path, lambda _: base, max_rank=rank, limit=limit, allow_pickle=True)


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Let errors say which argument is wrong."""
    try:
        yield
    except LoradexError as error:
        error.hint = f"{error.hint} (`{name}{SUFFIX}`)"
        raise
