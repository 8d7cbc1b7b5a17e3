"""The settings of an application as pydantic reads them: from the environment and from `.env`."""

from __future__ import annotations

import os
from typing import Any

try:
    from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict
except ModuleNotFoundError as error:
    from loradex.errors import MissingExtra

    raise MissingExtra("pydantic-settings", "app") from error

from loradex.manager.configuration import SUFFIX, UNLOAD_AFTER


class ModelSettings(BaseSettings):
    """`BASE_MODEL_PATH`, and `NAME_ADAPTER_PATH` for every adapter, from the environment or the file `.env`.

    Adapters need no field here. An application may add fields of its own by inheriting.
    """

    model_config = SettingsConfigDict(env_file=".env", env_file_encoding="utf-8", extra="allow")

    BASE_MODEL_PATH: str = ""
    AUTO_UNLOAD: bool = False
    UNLOAD_AFTER: float = UNLOAD_AFTER
    GPU_MEMORY_UTILIZATION: float | None = None
    TENSOR_PARALLEL_SIZE: int = 1

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[Any, ...]:
        """Read the paths of adapters that are no fields from the environment too, as pydantic does from `.env`."""
        return init_settings, env_settings, _paths, dotenv_settings, file_secret_settings


def _paths() -> dict[str, str]:
    return {name.lower(): path for name, path in os.environ.items() if path and name.lower().endswith(SUFFIX)}
