"""Brings adapters in from disk, beside the thread that computes answers and out of its way."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import torch

from loradex.adapters.adapter import Adapter
from loradex.adapters.packs import PackFolder
from loradex.adapters.rest import SHARE, Rest
from loradex.engine.base import Progress
from loradex.engine.local.change import Weights
from loradex.engine.local.guard import Guard
from loradex.engine.local.pack import BadPack, Pack, open_pack, pack_name, read_ahead, write_pack
from loradex.engine.local.team import alone
from loradex.engine.local.weights import Contents, read_contents

log = logging.getLogger(__name__)


Fit = Callable[[Adapter, Contents, Callable[[], None]], Weights]
"""Works out what an adapter does in the base; calls the last argument after every bit of work."""


class Loader:
    """Adapters for one engine, in its dtype, on its device: from their packs where there is a folder for packs.

    `busy` says whether answers are being computed. To map a pack takes a few milliseconds of one core and is done at
    once; to make one takes ten times that, so while answers are computed it takes a `share` of one core. With a
    `host_tier`, copies of packs can be held in host memory, beside what the device has.
    """

    def __init__(
        self,
        dtype: torch.dtype,
        device: torch.device,
        packs: PackFolder | None,
        busy: Callable[[], bool],
        *,
        share: float = SHARE,
        host_tier: bool = False,
    ) -> None:
        self._dtype = dtype
        self._device = device
        self._packs = packs
        self._rest = partial(Rest, busy, share)
        self.host_tier = host_tier
        self._held: dict[str, Pack] = {}
        self._guard = Guard()
        # Two, so that a load does not wait while a new pack is written through to the disk.
        self._threads = ThreadPoolExecutor(2, "loradex-loader", initializer=alone)
        # One of its own, so that no load waits for adapters that nobody asks for yet.
        self._packer = ThreadPoolExecutor(1, "loradex-packer", initializer=alone)

    async def prepare(self, adapter: Adapter, tell: Progress) -> None:
        """Make the pack of an adapter that has none, where packs are kept.

        Raises:
            AdapterDamaged: its files are gone or changed.
        """
        if self._packs is not None:
            await asyncio.get_running_loop().run_in_executor(self._packer, self._prepare, self._packs, adapter, tell)

    async def load(self, adapter: Adapter, fit: Fit) -> Weights:
        """Return an adapter as the tables of the engine take it; `fit` brings it together with the base.

        Raises:
            AdapterDamaged: its files are gone or changed.
        """
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._load, adapter, fit)

    def _load(self, adapter: Adapter, fit: Fit) -> Weights:
        return fit(adapter, self.read(adapter), self._rest())

    def read(self, adapter: Adapter) -> Contents:
        """Return the tensors of an adapter, before they have met the base; raises what `load` raises."""
        held = self._held.get(adapter.digest)
        if held is not None:
            return held.contents(self._device)
        if self._packs is None:
            return read_contents(adapter, self._dtype, self._device)
        try:
            return self._pack(self._packs, adapter).contents(self._device)
        except OSError as error:
            log.warning("the pack of %s cannot be written: %s", adapter.digest, error)
            return read_contents(adapter, self._dtype, self._device)

    async def stage(self, adapter: Adapter) -> int:
        """Hold a copy of an adapter's pack in host memory; return its bytes.

        Without a host tier, have the disk read ahead; then, and where there is no pack, nothing is held: 0.

        Raises:
            AdapterDamaged: its files are gone or changed.
        """
        if self._packs is None:
            return 0
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._stage, self._packs, adapter)

    def unstage(self, digest: str) -> None:
        """Let go of the copy."""
        self._held.pop(digest, None)

    def stop(self) -> None:
        """End the threads, after what they have begun. Weights that were read must not be used any more."""
        self._packer.shutdown(cancel_futures=True)
        self._threads.shutdown()
        self._guard.stop()

    def _place(self, packs: PackFolder, adapter: Adapter) -> Path:
        return packs.path(adapter.digest, *pack_name(self._dtype))

    def _stage(self, packs: PackFolder, adapter: Adapter) -> int:
        try:
            if not self.host_tier:
                read_ahead(self._place(packs, adapter))
                return 0
            if adapter.digest not in self._held:
                pack = self._pack(packs, adapter)
                self._held[adapter.digest] = pack.copied(pinned=self._device.type == "cuda")
        except OSError as error:
            log.info("the pack of %s cannot be read ahead: %s", adapter.digest, error)
            return 0
        return self._held[adapter.digest].data.nbytes

    def _pack(self, packs: PackFolder, adapter: Adapter) -> Pack:
        """Return the pack of an adapter, which is made where there is none or it is damaged."""
        path = self._place(packs, adapter)
        try:
            return open_pack(path, adapter.digest, self._dtype, self._guard)
        except FileNotFoundError:
            pass
        except (BadPack, OSError) as error:
            log.warning("the pack %s is made again: %s", path, error)
        return self._make(packs, path, adapter)

    def _prepare(self, packs: PackFolder, adapter: Adapter, tell: Progress) -> None:
        path = self._place(packs, adapter)
        if path.is_file():  # whether it is good shows when it is loaded
            return
        try:
            temporary = self._write(packs, adapter, lambda share: tell("pack", share))
        except OSError as error:
            log.warning("the pack %s cannot be written: %s", path, error)
            return
        _publish(packs, temporary, path)
        tell("pack", 1.0)

    def _make(self, packs: PackFolder, path: Path, adapter: Adapter) -> Pack:
        temporary = self._write(packs, adapter, lambda share: None)
        try:
            pack = open_pack(temporary, adapter.digest, self._dtype, self._guard)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        # Usable already: that it reaches the disk and gets its name is nothing to wait for.
        try:
            self._threads.submit(_publish, packs, temporary, path)
        except RuntimeError:  # the threads are ending
            _publish(packs, temporary, path)
        return pack

    def _write(self, packs: PackFolder, adapter: Adapter, tell: Callable[[float], None]) -> Path:
        """Return the file of a new pack, which has no name yet."""
        temporary = packs.temporary(adapter.digest)
        rest = self._rest()

        def pause(share: float) -> None:
            tell(share)
            rest()

        try:
            with temporary.open("xb") as file:
                write_pack(file, adapter, self._dtype, pause)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        return temporary


def _publish(packs: PackFolder, temporary: Path, path: Path) -> None:
    try:
        packs.publish(temporary, path)
    except OSError as error:
        log.warning("the pack %s cannot be kept: %s", path, error)
