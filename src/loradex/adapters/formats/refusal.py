"""How the readers and writers of formats say no."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

from loradex.errors import AdapterInvalid, Problem


def refuse(path: Path, code: str, what: str, fix: str) -> NoReturn:
    """Raise AdapterInvalid about a file, with one problem; `what` continues its name."""
    raise AdapterInvalid(f"{path} cannot be read", [Problem(code, f"{path.name} {what}", fix)])
