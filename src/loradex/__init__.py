"""Loradex: one base model, a whole deck of LoRA adapters, switched at run time."""

from __future__ import annotations

# Read by type checkers as true; importing `typing` for it would triple the time that `import loradex` takes.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from loradex.client.aio import AsyncClient
    from loradex.client.client import Client
    from loradex.core.adapter import AdapterRef
    from loradex.errors import LoradexError
    from loradex.service.service import Service
    from loradex.settings import Settings

__version__ = "0.1.0"

# Imported when first asked for, so that `import loradex` is instant and needs no optional dependency.
_HOMES = {
    "AdapterRef": "loradex.core.adapter",
    "AsyncClient": "loradex.client.aio",
    "Client": "loradex.client.client",
    "LoradexError": "loradex.errors",
    "Service": "loradex.service.service",
    "Settings": "loradex.settings",
}

__all__ = ["AdapterRef", "AsyncClient", "Client", "LoradexError", "Service", "Settings", "__version__", "errors"]


def __getattr__(name: str) -> object:
    from importlib import import_module

    if name == "errors":
        return import_module("loradex.errors")
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'loradex' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
