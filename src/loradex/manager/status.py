"""What is known of the base model and of adapters, as `get_model_status` tells it."""

from __future__ import annotations

from typing import Any, Final

from loradex.engine.memory import available_memory
from loradex.manager.configuration import Configuration
from loradex.manager.shared import SharedModel
from loradex.service.views import AdapterView

_TIERS: Final = {"device": "resident", "host": "in_host_memory", "disk": "on_disk"}


def base_status(configuration: Configuration, shared: SharedModel, adapters: list[str]) -> dict[str, Any]:
    """Return the status of the base model."""
    llm = shared.llm
    taken = llm.memory() if llm is not None else {}
    return {
        "name": "base",
        "status": shared.state,
        "use_count": shared.borrowed,
        "in_use": shared.users,
        "load_seconds": shared.load_seconds,
        "memory": {**taken, "total": sum(taken.values()), "available": available_memory()},
        "base_model_path": configuration.base,
        "adapters": adapters,
        "auto_unload": configuration.unload_after is not None,
        "unload_after": configuration.unload_after,
        "dtype": llm.info.dtype if llm is not None else None,
        "device": llm.info.device if llm is not None else None,
    }


def adapter_status(name: str, path: str, shared: SharedModel) -> dict[str, Any]:
    """Return the status of an adapter."""
    llm = shared.llm
    views = {view.name: view for view in llm.adapters()} if llm is not None else {}
    status = {"name": name, "path": path, "status": "not_loaded", "use_count": 0, "memory": 0, "version": None}
    return status | (_seen(views[name]) if name in views else {})


def _seen(view: AdapterView) -> dict[str, Any]:
    [now] = [each for each in view.versions if each.record.version == view.current]
    return {
        "status": _TIERS[now.tier],
        "use_count": sum(each.traffic.requests for each in view.versions),
        "memory": sum(each.device_bytes for each in view.versions),
        "version": now.record.version,
        "rank": now.record.rank,
    }
