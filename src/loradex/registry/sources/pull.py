"""An adapter of anywhere as a folder of the user's: fetched, then put in place whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from loradex.errors import Conflict, RegistryFailed, SourceFailed
from loradex.registry.sources.fetch import fetch
from loradex.registry.sources.room import Room, Told
from loradex.registry.sources.wanted import is_wanted


@dataclass(frozen=True, slots=True)
class Pulled:
    """What was pulled.

    Attributes:
        path: the folder, or the one file that it is.
        origin: where it is from, exactly: with the commit, on the Hub.
        bytes: of all its files.
        fell_back: why the fallback was taken; empty where it was not.
    """

    path: Path
    origin: str
    bytes: int
    fell_back: str = ""


def pull(
    source: str, out: Path, limit: int, *, fallback: str = "", force: bool = False, told: Told | None = None
) -> Pulled:
    """Bring an adapter's files into `out`, which must not exist yet.

    Args:
        source: folder, archive or address, as everywhere.
        out: the folder to make.
        limit: bytes that it may have.
        fallback: another source, for when the place of the first cannot be reached.
        force: replace what is at `out`.
        told: told how far it is.

    Raises:
        Conflict: `out` exists and `force` is false.
        SourceFailed: the place cannot be reached, and there is no fallback.
        LoradexError: whatever else `fetch` raises.
        RegistryFailed: the disk refuses.
    """
    if os.path.lexists(out) and not force:
        raise Conflict(f"{out} exists already", hint="Replace it with `--force`, or choose another folder with `--out`")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as folder:
            found, why = Path(folder) / "found", ""
            try:
                origin = _fetched(source, Path(folder) / "room", found, limit, told)
            except SourceFailed as error:
                if not fallback:
                    raise
                why = error.message
                origin = _fetched(fallback, Path(folder) / "spare", found, limit, told)
            size = sum(path.stat().st_size for path in found.rglob("*") if path.is_file())
            if os.path.lexists(out):
                out.replace(Path(folder) / "former")
            found.rename(out)
    except OSError as error:
        raise RegistryFailed(
            f"{out} cannot be written: {error.strerror or error}", hint="Choose another `--out`"
        ) from error
    return Pulled(out, origin, size, why)


def _fetched(source: str, room: Path, found: Path, limit: int, told: Told | None) -> str:
    """Copy the files of a source into the folder `found`; return where they are from."""
    room.mkdir()

    def make_room() -> Room:
        return Room(Path(tempfile.mkdtemp(dir=room)), limit, source, told)

    got = fetch(source, make_room)
    found.mkdir()
    if got.path.is_file():
        shutil.copy(got.path, found / got.path.name)
    for path in sorted(got.path.rglob("*")) if got.path.is_dir() else ():
        name = path.relative_to(got.path)
        if path.is_file() and is_wanted(name.as_posix()):
            (found / name).parent.mkdir(parents=True, exist_ok=True)
            # The Hub's cache holds links to files without names.
            shutil.copyfile(path, found / name)
    return got.origin or os.path.abspath(source)
