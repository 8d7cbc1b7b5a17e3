"""Names of files and folders in the making: they say whose they are, so that what a dead process left can go."""

from __future__ import annotations

import hashlib
import os
import secrets
import socket
import time
from pathlib import Path

STALE_SECONDS = 24 * 3600


def tag() -> str:
    """Return a part of a name that is this process's, and new each time; it holds no dot."""
    return f"{_host()}-{os.getpid()}-{secrets.token_hex(8)}"


def is_abandoned(path: Path, tag: str) -> bool:
    """Whether nobody will finish what lies at `path` under this tag: its process is gone, or it is older than a day.

    Raises:
        OSError: it cannot be looked at.
    """
    return time.time() - path.stat().st_mtime > STALE_SECONDS or _is_orphan(tag)


def _host() -> str:
    # Process ids mean something only on their own machine, and containers may share the folder.
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]


def _is_orphan(tag: str) -> bool:
    host, _, rest = tag.partition("-")
    process = rest.partition("-")[0]
    if host != _host() or not process.isdecimal() or os.name != "posix":  # elsewhere signal 0 is not a question
        return False
    try:
        os.kill(int(process), 0)
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:
        pass
    return False
