"""An environment of its own for each peer, in a cache folder, made once."""

from __future__ import annotations

import email
import os
import re
import subprocess
import sys
import venv
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path


def cache_folder() -> Path:
    """Return where environments and wheels are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "loradex" / "peers"


def environment(name: str, fill: Callable[[Path], None]) -> Path:
    """Return the Python of an environment; where it is not there yet, make it and let `fill` install into it."""
    folder = cache_folder() / name
    python = folder / "bin" / "python"
    done = folder / "complete"
    if not done.is_file():
        print(f"making the environment {folder} (once; this takes minutes)", file=sys.stderr)
        venv.create(folder, with_pip=True, clear=True)
        fill(python)
        done.touch()
    return python


def install(python: Path, *wanted: str) -> None:
    """Install with the environment's own pip, from wherever that is set up to look."""
    subprocess.run([python, "-m", "pip", "install", "--disable-pip-version-check", *wanted], check=True)


def download(python: Path, wanted: str, folder: Path) -> Path:
    """Download one wheel without what it requires; return its file."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run([python, "-m", "pip", "download", "--no-deps", "--dest", str(folder), wanted], check=True)
    name = wanted.partition("==")[0].replace("-", "_")
    return max(folder.glob(f"{name}-*.whl"), key=lambda path: path.stat().st_mtime)


def requirements(wheel: Path, without: Sequence[str]) -> list[str]:
    """Return what a wheel requires, but not its extras and not the packages named in `without`."""
    with zipfile.ZipFile(wheel) as archive:
        page = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = email.message_from_bytes(archive.read(page))
    wanted = [line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line]
    return [line for line in wanted if (re.match(r"[A-Za-z0-9._-]+", line) or [""])[0].lower() not in without]
