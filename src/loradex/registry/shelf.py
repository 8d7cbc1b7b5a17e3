"""Stored adapters, read and understood; read again only where their files have changed."""

from __future__ import annotations

import threading
from collections import OrderedDict

from loradex.adapters.adapter import Adapter
from loradex.adapters.files import find_files
from loradex.adapters.read import examine
from loradex.errors import AdapterDamaged, FilesNotFound
from loradex.registry import stamp
from loradex.registry.blobs import Blobs

KEPT = 512
"""How many adapters are remembered; one with many layers takes some 100 KB."""


class Shelf:
    """What lies in the blobs, by digest. Safe from several threads."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs
        self._kept: OrderedDict[str, tuple[stamp.Stamp, Adapter]] = OrderedDict()
        self._lock = threading.Lock()

    def adapter(self, digest: str, *, verify: bool) -> Adapter:
        """Return a stored adapter. All of it is read and compared if `verify`, or if its files were touched.

        Raises:
            AdapterDamaged: its files are gone or differ from the digest.
        """
        now = stamp.take(self._blobs.path(digest))
        with self._lock:
            known = self._kept.get(digest)
            if known is not None and known[0] == now and not verify:
                self._kept.move_to_end(digest)
                return known[1]
        adapter = self._read(digest, now, verify)
        if now is not None:
            with self._lock:
                self._kept[digest] = (now, adapter)
                while len(self._kept) > KEPT:
                    self._kept.popitem(last=False)
        return adapter

    def _read(self, digest: str, now: stamp.Stamp | None, verify: bool) -> Adapter:
        folder = self._blobs.path(digest)
        trusted = not verify and now is not None and stamp.read(folder) == now
        try:
            found = examine(find_files(folder), digest if trusted else None)
        except FilesNotFound as error:
            raise AdapterDamaged(f"The stored files of {digest[:12]} are gone: {error.message}") from error
        if found.problems:
            listed = "; ".join(problem.what for problem in found.problems)
            raise AdapterDamaged(f"The stored files of {digest[:12]} are damaged: {listed}")
        if found.adapter.digest != digest:
            raise AdapterDamaged(
                f"The stored files of {digest[:12]} have changed: they are {found.adapter.digest[:12]}"
            )
        if not trusted:
            stamp.write(folder, now)
        return found.adapter
