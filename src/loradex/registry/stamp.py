"""Whether stored files are still those whose digest is known: asked of the file system, without reading them.

The stamp is written when the files are hashed, and lies beside them. Size, times and inode change whenever somebody
writes to a file or puts another in its place; the time of the last change of any kind cannot be set back. A copy of the
store on another machine has other stamps, so there each adapter is read in full once.
"""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

from loradex.adapters.files import CONFIG, WEIGHTS
from loradex.adapters.tokenizer import FILE as VOCABULARY

FILE = "stamp.json"

Stamp = list[list[int]]


def take(folder: Path) -> Stamp | None:
    """Return what the file system says of an adapter's files now; None where one is missing."""
    try:
        found = [(folder / name).stat() for name in (CONFIG, WEIGHTS)]
        found += [(folder / name).stat() for name in (VOCABULARY,) if (folder / name).exists()]
    except OSError:
        return None
    return [[each.st_size, each.st_mtime_ns, each.st_ctime_ns, each.st_ino] for each in found]


def read(folder: Path) -> Stamp | None:
    """Return the stamp that was written when the files were hashed, if there is one."""
    try:
        stamp: Stamp = json.loads((folder / FILE).read_text())
    except (OSError, ValueError):
        return None
    return stamp


def write(folder: Path, stamp: Stamp | None) -> None:
    """Remember a stamp, taken before the files were hashed. Where that fails they are hashed again next time."""
    if stamp is not None:
        with suppress(OSError):
            # Half of it, after a crash or seen while it is written, is not JSON and so no stamp.
            (folder / FILE).write_text(json.dumps(stamp))
