"""ModelManager: the base model and the adapters of an application."""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from loradex.core.adapter import BASE
from loradex.errors import ConfigInvalid
from loradex.llm.llm import LLM
from loradex.llm.wording import in_arguments
from loradex.manager.configuration import Configuration, read_configuration, require_known
from loradex.manager.model import check_adapter
from loradex.manager.preparation import prepare
from loradex.manager.shared import SharedModel
from loradex.manager.status import adapter_status, base_status
from loradex.manager.use import Use


class ModelManager:
    """One base model, loaded when it is first used, and adapters by name. Safe from any thread and event loop.

    Args:
        home: folder of a registry that stays, so that adapters are prepared once for all runs; without it they are
            prepared anew in every run.
    """

    def __init__(self, home: str | Path | None = None) -> None:
        folder = TemporaryDirectory(prefix="loradex-", ignore_cleanup_errors=True) if home is None else None
        self._home = Path(folder.name) if folder is not None else Path(home or "").expanduser()
        self._configuration: Configuration | None = None
        self._adapters: dict[str, str] = {}
        self._shared: SharedModel | None = None
        self._changing = threading.Lock()
        # The model first, then the folder that its packs are mapped from.
        self._models: list[SharedModel] = []
        self._end = weakref.finalize(self, _end, self._models, folder)

    async def configure_models(
        self,
        base_model_path: str | Path | None = None,
        *,
        settings: object = None,
        adapters: Mapping[str, str] | None = None,
        schemas: Mapping[str, Any] | None = None,
        auto_unload: bool | None = None,
        unload_after: float | None = None,
        preload: bool = False,
        **others: Any,
    ) -> None:
        """Say what there is. All of it is checked now, and nothing loaded before its first use.

        Again, with the same base and arguments, it changes adapters while the model goes on; with others, the model is
        replaced: who uses the old one ends with it, and the next who comes loads the new one.

        Args:
            base_model_path: folder or hub id of the base model.
            settings: a pydantic model such as `ModelSettings()`, with `BASE_MODEL_PATH`, `CONCEPT_ADAPTER_PATH` ...;
                what is given here wins over it.
            adapters: paths by name, beside `<name>_adapter_path=...`. A path may be an address: `hf://...`, `s3://...`.
            schemas: what `generate_modeling` makes under an adapter: pydantic models or JSON schemas, by its name.
            auto_unload: free the base model when nobody has used it for `unload_after` seconds; the next use loads it.
            unload_after: 300 by default.
            preload: load the base model now.
            others: `<name>_adapter_path` for every adapter, and every argument of `LLM`: `gpu_memory_utilization`,
                `tensor_parallel_size`, `max_loras`, `dtype`, `quantization`, `kv_cache_memory` ...

        Raises:
            ConfigInvalid, Unsupported: an argument is wrong, or the base cannot be served.
            MemoryShort: it does not fit into the memory that is free now.
            FilesNotFound, AdapterInvalid, SourceFailed: an adapter is not there, or does not fit the base; nothing was
                changed.
        """
        given = {**others, "base_model_path": base_model_path, "auto_unload": auto_unload, "unload_after": unload_after}
        configuration = read_configuration(settings, adapters, schemas, given)
        await asyncio.to_thread(self._configure, configuration)
        if preload:
            await self.load()

    def use_model(self, name: str = BASE) -> Use:
        """Return a block that lends the base model under an adapter: `with` or `async with` gives a `Model`.

        The first to enter loads the base model. `with` blocks meanwhile; in an event loop take `async with`.

        Raises:
            ConfigInvalid: nothing is configured.
            AdapterNotFound: there is no such adapter.
        """
        configuration, shared = self._configured()
        check_adapter(name, self._adapters)
        return Use(shared, self._adapters, configuration.schemas, name)

    async def load(self) -> None:
        """Load the base model, where it is not loaded: for the start of an application, or before a rush."""
        async with self.use_model():
            pass

    async def unload(self) -> bool:
        """Free the base model, unless somebody uses it; return whether it is out of memory. The next use loads it."""
        _, shared = self._configured()
        return await asyncio.to_thread(shared.unload)

    async def close(self) -> None:
        """Free everything. Answers under way end with EngineStopped. It may be configured again."""
        self._configuration = None
        self._adapters = {}
        shared, self._shared = self._shared, None
        if shared is not None:
            await asyncio.to_thread(shared.close)

    async def add_adapter(self, name: str, path: str | Path, schema: Any = None) -> None:
        """Add an adapter, or a new version of one, while others answer. Answers under way keep their version.

        Raises:
            FilesNotFound, AdapterInvalid, SourceFailed: it is not there, or does not fit the base.
            InvalidRequest: the name is none.
        """
        now, _ = self._configured()
        paths = {**self._adapters, name: str(path)}
        schemas = {**now.schemas, **({} if schema is None else {name: schema})}
        read = read_configuration(None, paths, schemas, {"base_model_path": now.base})
        await asyncio.to_thread(self._configure, replace(now, adapters=read.adapters, schemas=schemas), only=name)

    async def remove_adapter(self, name: str) -> None:
        """Take an adapter out. Answers under way end on it.

        Raises:
            AdapterNotFound: there is none.
        """
        now, _ = self._configured()
        require_known(name, self._adapters)
        del self._adapters[name]
        rest = {each: schema for each, schema in now.schemas.items() if each != name}
        self._configuration = replace(now, adapters=dict(self._adapters), schemas=rest)

    def list_adapters(self) -> list[str]:
        """Return the names of all adapters, in the order in which they were configured."""
        return list(self._adapters)

    async def get_model_status(self, name: str = BASE) -> dict[str, Any]:
        """Return what is known of the base model, or of an adapter; it loads nothing.

        There are always `name`, `status`, `use_count` and `memory`, in bytes. Of the base, `status` is `not_loaded`,
        `loading` or `loaded`; `use_count` says how often it was borrowed, `in_use` by how many it is now,
        `load_seconds` what the last load took, `memory` what each part takes (`weights`, `kv_cache`, each resident
        adapter, `total`) and how much of the host's is `available`. Of an adapter, `status` is `not_loaded`, `on_disk`,
        `in_host_memory` or `resident`; `use_count` says how many answers it gave since the base was loaded, `version`
        which one the name means.

        Raises:
            ConfigInvalid: nothing is configured.
            AdapterNotFound: there is no such adapter.
        """
        configuration, shared = self._configured()
        if name == BASE:
            return await asyncio.to_thread(base_status, configuration, shared, list(self._adapters))
        require_known(name, self._adapters)
        return await asyncio.to_thread(adapter_status, name, self._adapters[name], shared)

    def _configured(self) -> tuple[Configuration, SharedModel]:
        configuration, shared = self._configuration, self._shared
        if configuration is None or shared is None:
            raise ConfigInvalid(
                "No model is configured",
                hint="await model_manager.configure_models(base_model_path=..., <name>_adapter_path=...)",
            )
        return configuration, shared

    def _configure(self, configuration: Configuration, only: str | None = None) -> None:
        """Check and register, then change; `only` names the one adapter that may be new."""
        with self._changing, in_arguments():
            now, shared = self._configuration, self._shared
            same = now is not None and shared is not None and now.model == configuration.model
            changed = {name: path for name, path in configuration.adapters.items() if only in (None, name)}
            running = shared.llm if same and shared is not None else None
            prepare(replace(configuration, adapters=changed), self._home, running)
            if same and shared is not None:
                shared.unload_after = configuration.unload_after
            else:
                self._replace(configuration)
            self._adapters.update(configuration.adapters)
            for gone in self._adapters.keys() - configuration.adapters.keys():
                del self._adapters[gone]
            self._configuration = configuration

    def _replace(self, configuration: Configuration) -> None:
        old = self._shared
        home, base, arguments = self._home, configuration.base, configuration.arguments
        self._shared = SharedModel(lambda: LLM(base, home=home, **arguments), configuration.unload_after)
        self._adapters = {}  # who uses the old model goes on with its own
        self._models[:] = [self._shared]
        if old is not None:
            old.retire()


_ONLY = threading.Lock()
_managers: list[ModelManager] = []


def get_model_manager() -> ModelManager:
    """Return the one manager of this process."""
    with _ONLY:
        if not _managers:
            _managers.append(ModelManager())
        return _managers[0]


def _end(models: list[SharedModel], folder: TemporaryDirectory[str] | None) -> None:
    for each in models:
        each.close()
    if folder is not None:
        folder.cleanup()
