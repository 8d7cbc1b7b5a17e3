"""Files as memory that nobody can change or take away: mapped under a lease of the kernel's, or else copied.

Whoever cuts a mapped file short takes pages from under those who read them, and the process dies. A read lease makes
everybody who would write to the file or cut it wait until its holder agrees. Before it agrees, the guard puts a copy in
the place of the mapping, at the same addresses and at once for every thread.
"""

from __future__ import annotations

import ctypes
import logging
import mmap
import os
import signal
import sys
import threading
import weakref
from contextlib import suppress
from typing import BinaryIO

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.5
"""How long a writer may have to wait; the kernel lets it wait for 45 s (`/proc/sys/fs/lease-break-time`)."""

_PIECE = 1 << 20
_MOVE_TO = 1 | 2  # MREMAP_MAYMOVE | MREMAP_FIXED


class Guard:
    """Maps files, and looks after them for as long as the memory is used, with a thread of its own."""

    def __init__(self) -> None:
        self._leases: dict[int, weakref.ref[mmap.mmap]] = {}  # by the handle that holds the lease
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def map(self, file: BinaryIO) -> mmap.mmap:
        """Return private memory with the content of a file.

        Where no lease can be had, because the file is another user's, lies on a network or is open for writing, or the
        system knows none, that is a copy.

        Raises:
            ValueError: the file is empty.
            OSError: it cannot be read.
        """
        handle = os.dup(file.fileno())
        try:
            leased = _lease(handle)
            memory = mmap.mmap(handle, 0, access=mmap.ACCESS_COPY) if leased else _copied(file)
        except BaseException:
            os.close(handle)
            raise
        if leased:
            self._watch(handle, memory)
        else:
            os.close(handle)
        return memory

    def look(self) -> None:
        """Let everybody go on who waits to change a mapped file, now that a copy stands for it."""
        with self._lock:
            for handle, held in list(self._leases.items()):
                memory = held()
                if memory is None:  # its handle is closed in a moment
                    continue
                if _is_asked_for(handle) and _take_out(memory):
                    log.warning("somebody changes a pack that is in use: its adapter goes on from a copy in memory")
                    self._let_go(handle)

    def stop(self) -> None:
        """Look after nothing any more: what is still mapped must not be read again."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
        with self._lock:
            for handle in list(self._leases):
                self._let_go(handle)

    def _watch(self, handle: int, memory: mmap.mmap) -> None:
        with self._lock:
            self._leases[handle] = weakref.ref(memory)
            weakref.finalize(memory, self._forget, handle, self._leases[handle])
            if self._thread is None:
                self._thread = threading.Thread(target=self._look_again, name="loradex-guard", daemon=True)
                self._thread.start()

    def _look_again(self) -> None:
        while not self._ended.wait(LOOK_SECONDS):
            self.look()

    def _forget(self, handle: int, held: weakref.ref[mmap.mmap]) -> None:
        # The number may be another file's by now, where the lease was given up.
        if self._leases.get(handle) is held:
            self._let_go(handle)

    def _let_go(self, handle: int) -> None:
        del self._leases[handle]
        _give_back(handle)
        os.close(handle)


def _copied(file: BinaryIO) -> mmap.mmap:
    size = os.fstat(file.fileno()).st_size
    if not size:
        raise ValueError("the file is empty")
    memory = mmap.mmap(-1, size)
    for begin in range(0, size, _PIECE):
        piece = file.read(_PIECE)
        memory[begin : begin + len(piece)] = piece
    return memory


if sys.platform == "linux":
    import fcntl

    _libc = ctypes.CDLL(None, use_errno=True)
    _libc.mmap.restype = _libc.mremap.restype = ctypes.c_void_p
    _libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    _libc.mremap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p]

    def _lease(handle: int) -> bool:
        """Take a read lease; return whether there is one."""
        with suppress(OSError):
            fcntl.fcntl(handle, fcntl.F_SETLEASE, fcntl.F_RDLCK)
            # Asked back, the kernel sends a signal. This one does nothing by default; SIGIO would end the process.
            fcntl.fcntl(handle, fcntl.F_SETSIG, signal.SIGURG)
            return True
        return False

    def _give_back(handle: int) -> None:
        # To close the handle is not enough: `mmap` has one of its own for the same open file.
        with suppress(OSError):
            fcntl.fcntl(handle, fcntl.F_SETLEASE, fcntl.F_UNLCK)

    def _is_asked_for(handle: int) -> bool:
        return fcntl.fcntl(handle, fcntl.F_GETLEASE) != fcntl.F_RDLCK

    def _take_out(memory: mmap.mmap) -> bool:
        """Put a copy in the place of a mapping; return whether there was memory for it."""
        size, place = len(memory), ctypes.addressof(ctypes.c_char.from_buffer(memory))
        copy = _libc.mmap(None, size, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
        if copy == ctypes.c_void_p(-1).value:
            log.error("there is no memory for a copy of a pack that somebody else wants to change")
            return False
        ctypes.memmove(copy, place, size)
        return bool(_libc.mremap(copy, size, size, _MOVE_TO, place) == place)

else:

    def _lease(handle: int) -> bool:
        return False

    def _give_back(handle: int) -> None:
        pass

    def _is_asked_for(handle: int) -> bool:
        return False

    def _take_out(memory: mmap.mmap) -> bool:
        return False
