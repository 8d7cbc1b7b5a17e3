"""How a source is written: a path, an address, or `owner/name` of the Hub."""

from __future__ import annotations

import os
import re
from pathlib import Path

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_PART = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
_SHORT = re.compile(rf"{_PART}/{_PART}(@[^@/]+)?")


def is_url(source: str) -> bool:
    """Return whether a source is an address rather than a path of this machine."""
    return _URL.match(source) is not None


def is_short(source: str) -> bool:
    """Return whether a source can be `owner/name` or `owner/name@revision` of the Hub."""
    return _SHORT.fullmatch(source) is not None and ".." not in source


def located(source: str, folder: Path | None = None) -> str:
    """Return a source as it means the same from any folder: paths in full, addresses as they are.

    A relative path counts from `folder`, or from the working folder. `owner/name` is on the Hub, unless there is a
    folder `owner`.
    """
    if not source or is_url(source):
        return source
    path = os.path.abspath(os.path.join(folder or "", os.path.expanduser(source)))
    return f"hf://{source}" if is_short(source) and not os.path.lexists(os.path.dirname(path)) else path
