"""Brings adapters in from disk, beside the thread that computes answers and out of its way."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from loradex.adapters.adapter import Adapter
from loradex.adapters.packs import PackFolder
from loradex.engine.local.lora import LoraPair
from loradex.engine.local.pack import BadPack, open_pack, pack_name, write_pack
from loradex.engine.local.team import alone
from loradex.engine.local.weights import read_pairs
from loradex.errors import AdapterDamaged

log = logging.getLogger(__name__)

SLICE_SECONDS = 0.0005
"""Worked between two rests, by the thread's own clock."""

SHARE = 0.1
"""Of one core, for making a pack while answers are computed."""


class Loader:
    """Adapters for one engine, in its dtype, on its device: from their packs where there is a folder for packs.

    `busy` says whether answers are being computed. To map a pack takes a few milliseconds of one core and is done at
    once; to make one takes ten times that, so while answers are computed it is done bit by bit.
    """

    def __init__(
        self, dtype: torch.dtype, device: torch.device, packs: PackFolder | None, busy: Callable[[], bool]
    ) -> None:
        self._dtype = dtype
        self._device = device
        self._packs = packs
        self._busy = busy
        # Two, so that a load does not wait while a new pack is written through to the disk.
        self._threads = ThreadPoolExecutor(2, "loradex-loader", initializer=alone)

    async def load(self, adapter: Adapter) -> dict[str, LoraPair]:
        """Return the pairs of an adapter by module path.

        Raises:
            AdapterDamaged: its files are gone or changed.
        """
        return await asyncio.get_running_loop().run_in_executor(self._threads, self.read, adapter)

    def read(self, adapter: Adapter) -> dict[str, LoraPair]:
        """Do what `load` does, in this thread."""
        if self._packs is None:
            return read_pairs(adapter, self._dtype, self._device)
        path = self._packs.path(adapter.digest, *pack_name(self._dtype))
        try:
            return self._open(path, adapter)
        except FileNotFoundError:
            pass
        except (BadPack, OSError) as error:
            log.warning("the pack %s is made again: %s", path, error)
        try:
            return self._make(self._packs, path, adapter)
        except OSError as error:
            log.warning("the pack %s cannot be written: %s", path, error)
            return read_pairs(adapter, self._dtype, self._device)

    def stop(self) -> None:
        """End the threads, after what they have begun."""
        self._threads.shutdown()

    def _open(self, path: Path, adapter: Adapter) -> dict[str, LoraPair]:
        return open_pack(path, adapter.digest, self._dtype, self._device)

    def _make(self, packs: PackFolder, path: Path, adapter: Adapter) -> dict[str, LoraPair]:
        temporary = packs.temporary(adapter.digest)
        try:
            with temporary.open("xb") as file:
                write_pack(file, adapter, self._dtype, _Rest(self._busy))
            pairs = self._open(temporary, adapter)
        except (OSError, AdapterDamaged):
            temporary.unlink(missing_ok=True)
            raise
        # Usable already: that it reaches the disk and gets its name is nothing to wait for.
        try:
            self._threads.submit(_publish, packs, temporary, path)
        except RuntimeError:  # the threads are ending
            _publish(packs, temporary, path)
        return pairs


class _Rest:
    """Sleeps after each slice so long that a load takes a small share of one core while answers are computed.

    A lower priority for the thread would do the same and use idle cores better, but it can be put aside while it holds
    the interpreter's lock, and then everybody waits for it.
    """

    def __init__(self, busy: Callable[[], bool]) -> None:
        self._busy = busy
        self._began = time.thread_time()

    def __call__(self) -> None:
        worked = time.thread_time() - self._began
        if worked >= SLICE_SECONDS:
            if self._busy():
                time.sleep(worked * (1 / SHARE - 1))
            self._began = time.thread_time()


def _publish(packs: PackFolder, temporary: Path, path: Path) -> None:
    try:
        packs.publish(temporary, path)
    except OSError as error:
        log.warning("the pack %s cannot be kept: %s", path, error)
