"""Lines of JSON in files that do not grow without end."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FOLDER = "shadows"
"""The folder of the journals of shadows in a data folder."""


class Journal:
    """One file for each name, and the one before it: when a file would pass half of `limit` bytes, a new one begins.

    Blocks. Only who runs the server may read the files: they hold what users wrote.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self._folder = folder
        self._limit = limit

    def path(self, name: str) -> Path:
        """Return the file of a name, whether it is there or not."""
        return self._folder / f"{name}.jsonl"

    def write(self, name: str, entry: Mapping[str, Any]) -> None:
        """Add a line; one that is larger than half of the limit is left out.

        Raises:
            OSError: the disk refuses.
        """
        line = json.dumps(entry, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
        if len(line) > self._limit // 2:
            return
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = self.path(name)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            if os.fstat(handle).st_size + len(line) > self._limit // 2:
                path.replace(path.with_suffix(".old.jsonl"))
                os.close(handle)
                handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            os.write(handle, line)  # one call: two processes that share the folder do not mix their lines
        finally:
            os.close(handle)
