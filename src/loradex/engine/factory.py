"""Engine by name, through the entry points of group `loradex.engines`."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from loradex.engine.base import Engine
from loradex.engine.config import EngineConfig
from loradex.errors import ConfigInvalid, MissingExtra, near

GROUP = "loradex.engines"


def engine_names() -> list[str]:
    """Return the names of the engines that are installed, sorted."""
    return sorted({entry.name for entry in entry_points(group=GROUP)})


def make_engine(name: str, config: EngineConfig) -> Engine:
    """Make the engine of that name. It is not started.

    Raises:
        ConfigInvalid: there is no such engine.
        MissingExtra: the engine needs a package that is not installed.
    """
    found = _entry(name)
    try:
        make = found.load()
        engine: Engine = make(config)
    except ModuleNotFoundError as error:
        # A missing module of our own is a broken installation, which must not look like a missing extra.
        if error.name is None or error.name.partition(".")[0] == "loradex":
            raise
        raise MissingExtra(error.name, name) from error
    return engine


def engine_part(name: str, part: str) -> Any:
    """Return the module `part` that lies beside an engine, such as `floor`; None where the engine has none.

    So tensor code of an engine is reached from where torch may not be imported.

    Raises:
        ConfigInvalid: there is no such engine.
        MissingExtra: the module needs a package that is not installed.
    """
    module = f"{_entry(name).module.rpartition('.')[0]}.{part}"
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name == module:
            return None
        if error.name is None or error.name.partition(".")[0] == "loradex":
            raise
        raise MissingExtra(error.name, name) from error


def _entry(name: str) -> EntryPoint:
    found = next(iter(entry_points(group=GROUP, name=name)), None)
    if found is None:
        names = engine_names()
        close = ", ".join(near(name, names) or names)
        raise ConfigInvalid(f"There is no engine called {name!r}", hint=f"Engines here: {close}")
    return found
