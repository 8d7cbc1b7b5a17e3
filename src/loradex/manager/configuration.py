"""What an application tells its ModelManager: the base, adapters by name, and how to run them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from loradex.arguments.arguments import ARGUMENTS
from loradex.core.adapter import BASE, check_name
from loradex.errors import AdapterNotFound, ConfigInvalid
from loradex.registry.sources.address import located

SUFFIX: Final = "_adapter_path"

UNLOAD_AFTER: Final = 300.0
"""Seconds without use after which `auto_unload` frees the base model."""

_OWN: Final = ("base_model_path", "auto_unload", "unload_after", "gpu_memory_utilization", "tensor_parallel_size")
"""What is read from settings, beside the paths of adapters."""


@dataclass(frozen=True, slots=True)
class Configuration:
    """A configuration that was read; nothing of it was looked for yet.

    Attributes:
        base: folder or hub id of the base model.
        adapters: where each adapter lies, by its name, in the order in which they were given.
        schemas: what `generate_modeling` makes under an adapter when the call says nothing: a pydantic model or a JSON
            schema.
        unload_after: seconds without use after which the base model is freed; None keeps it.
        arguments: for `LLM`.
    """

    base: str
    adapters: Mapping[str, str] = field(default_factory=dict)
    schemas: Mapping[str, Any] = field(default_factory=dict)
    unload_after: float | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @property
    def model(self) -> tuple[str, Mapping[str, Any]]:
        """What decides which model is loaded and how: where this is the same, it need not be loaded again."""
        return self.base, self.arguments


def read_configuration(
    settings: object, adapters: Mapping[str, str] | None, schemas: Mapping[str, Any] | None, given: Mapping[str, Any]
) -> Configuration:
    """Put together what was given in several ways; arguments win over settings.

    Args:
        settings: a pydantic model (such as `BaseSettings`) or mapping with `BASE_MODEL_PATH`, `CONCEPT_ADAPTER_PATH`
            and the like, in capitals or not; what else it holds is not ours. None for none.
        adapters: paths by name, for names that are no part of an argument.
        schemas: by the name of the adapter.
        given: `concept_adapter_path` and the like, our own arguments, and those of `LLM`. None and empty paths were not
            given.

    Raises:
        ConfigInvalid: no base is named, or an argument is nearly an adapter's path.
        AdapterNotFound: a schema is for no adapter.
        InvalidRequest: a name is none.
    """
    values = {**_read(settings), **{name: value for name, value in given.items() if value is not None}}
    paths = {name: str(path) for name, path in (adapters or {}).items() if path}
    for key in [key for key in values if key.endswith(SUFFIX)]:
        path = values.pop(key)
        if path:
            paths[key.removesuffix(SUFFIX)] = str(path)
    for name in paths:
        _check(name)
    for name in schemas or {}:
        if name != BASE:
            require_known(name, paths)
    base = str(values.pop("base_model_path", "") or "")
    if not base:
        raise ConfigInvalid(
            "No base model is named",
            hint='await model_manager.configure_models(base_model_path="FOLDER OR HUB ID", ...), or BASE_MODEL_PATH in '
            "the settings",
            param="base_model_path",
        )
    for key in values.keys() - set(ARGUMENTS):
        name, like_a_path, _ = key.partition("_adapter_")
        if like_a_path:
            raise ConfigInvalid(f"There is no argument `{key}`", hint=f"Did you mean `{name}{SUFFIX}`?", param=key)
    after = float(values.pop("unload_after", UNLOAD_AFTER))
    kept = not values.pop("auto_unload", False)
    return Configuration(
        base,
        {name: located(path) for name, path in paths.items()},
        dict(schemas or {}),
        None if kept else after,
        values,
    )


def require_known(name: str, known: Iterable[str]) -> None:
    """Check that an adapter was configured.

    Raises:
        AdapterNotFound: it was not; the hint says how to.
    """
    if name in known:
        return
    listed = ", ".join(known) or "none"
    raise AdapterNotFound(
        f"Adapter {name!r} not loaded; configured are: {listed}",
        hint=f'await model_manager.configure_models(..., {name}{SUFFIX}="/correct/path/to/adapter"), or '
        f'await model_manager.add_adapter("{name}", "/correct/path/to/adapter")',
        param=f"{name}{SUFFIX}",
    )


def _check(name: str) -> None:
    check_name(name)
    if name == BASE:
        raise ConfigInvalid(
            "`base` is the base model, and no adapter", hint="Give the adapter another name", param=BASE + SUFFIX
        )


def _read(settings: object) -> dict[str, Any]:
    if settings is None:
        return {}
    dump = getattr(settings, "model_dump", None)
    values = dump() if callable(dump) else settings
    if not isinstance(values, Mapping):
        raise ConfigInvalid(
            f"settings is of type {type(settings).__name__}",
            hint="Give a pydantic model, such as `loradex.ModelSettings()`, or a mapping",
            param="settings",
        )
    lower = {str(key).lower(): value for key, value in values.items() if value is not None}
    return {key: value for key, value in lower.items() if key in _OWN or key.endswith(SUFFIX)}
