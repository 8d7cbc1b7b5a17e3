"""The base model that an adapter's own configuration names, where that is a folder here."""

from __future__ import annotations

import json
from pathlib import Path


def named_base(adapter: Path) -> str | None:
    """Return what the PEFT configuration in a folder calls its base; None where there is none that can be read."""
    try:
        config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    named = config.get("base_model_name_or_path") if isinstance(config, dict) else None
    return named if isinstance(named, str) and named else None


def own_base(adapter: Path) -> Path | None:
    """Return the folder of the base that an adapter names, if it is one on this machine."""
    named = named_base(adapter)
    return Path(named) if named is not None and "\0" not in named and Path(named).is_dir() else None
