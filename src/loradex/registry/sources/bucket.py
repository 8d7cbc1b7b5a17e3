"""`s3://`, `gs://` and whatever else fsspec reads: a folder, or one file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import urlsplit

from loradex.errors import FilesNotFound, LoradexError, MissingExtra, SourceFailed
from loradex.registry.sources.room import CHUNK_BYTES, MAX_FILES, Room
from loradex.registry.sources.wanted import is_wanted

EXTRAS: Final = {"s3": ("s3fs", "s3"), "gs": ("gcsfs", "gs")}
"""For each scheme the package that reads it, and the extra that installs that."""


def fetch(url: str, room: Room) -> tuple[str, str] | None:
    """Download a folder into the room, or one file; for a file return its name and its SHA-256.

    Raises:
        MissingExtra: the scheme needs a package that is not installed.
        FilesNotFound: there is nothing at the address.
        SourceFailed: the store cannot be reached or refuses.
        AdapterInvalid: it is larger than there is room.
        OSError: the disk refuses.
    """
    system, path = _opened(url)
    if _asked(url, system.isfile, path):
        name = path.rpartition("/")[2]
        room.expect(int(_asked(url, system.size, path) or 0))
        return name, room.write(name, _pieces(url, system, path))
    listed: dict[str, Any] = _asked(url, system.find, path, detail=True)
    if len(listed) > MAX_FILES:
        raise room.refused("too_large", f"it holds more than {MAX_FILES} files", "Give the adapter's own folder")
    start = path.rstrip("/") + "/"
    files = {each.removeprefix(start): each for each in listed if each.startswith(start) and is_wanted(each)}
    if not files:
        raise FilesNotFound(f"No adapter at {url}: there are no files of an adapter")
    room.expect(sum(int(listed[each].get("size") or 0) for each in files.values()))
    for name, each in files.items():
        room.write(name, _pieces(url, system, each))
    return None


def _opened(url: str) -> tuple[Any, str]:
    scheme = urlsplit(url).scheme
    try:
        from fsspec.core import url_to_fs

        system, path = _asked(url, url_to_fs, url)
    except ImportError as error:
        package, extra = EXTRAS.get(scheme, ("fsspec", "s3"))
        raise MissingExtra(package, extra) from error
    system.invalidate_cache()  # fsspec remembers listings for the whole process, and buckets change
    return system, path


def _pieces(url: str, system: Any, path: str) -> Iterator[bytes]:
    file = _asked(url, system.open, path, "rb")
    try:
        while piece := _asked(url, file.read, CHUNK_BYTES):
            yield piece
    finally:
        file.close()


def _asked(url: str, ask: Any, *values: Any, **options: Any) -> Any:
    try:
        return ask(*values, **options)
    except (ImportError, LoradexError):
        raise
    except FileNotFoundError as error:
        raise FilesNotFound(f"No adapter at {url}: {error}") from error
    except Exception as error:  # each store's library has its own
        said = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
        raise SourceFailed(f"{url} cannot be read: {said}") from error
