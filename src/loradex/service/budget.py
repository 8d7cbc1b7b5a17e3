"""How many adapters the engine may hold, and how many bytes of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from loradex.errors import AdapterTooLarge


@dataclass(frozen=True, slots=True)
class Lack:
    """What has to be freed before one more adapter fits."""

    slots: int
    bytes: int

    def __bool__(self) -> bool:
        return self.slots > 0 or self.bytes > 0

    def less(self, size: int) -> Lack:
        """Return what is lacking still when an adapter of `size` bytes has gone."""
        return Lack(max(0, self.slots - 1), max(0, self.bytes - size))


@dataclass(frozen=True, slots=True)
class Budget:
    """Slots, and bytes of weights; None for as many bytes as the slots hold."""

    slots: int
    bytes: int | None = None

    def lack(self, held: Iterable[int], *wanted: int) -> Lack:
        """Return what is lacking for adapters of the sizes `wanted` beside others of the sizes `held`."""
        sizes = [*held, *wanted]
        over = 0 if self.bytes is None else sum(sizes) - self.bytes
        return Lack(max(0, len(sizes) - self.slots), max(0, over))

    def require(self, wanted: Sequence[int], pinned: Iterable[int] = ()) -> None:
        """Check that adapters of the sizes `wanted`, of one request, fit when all has gone but what is pinned.

        Raises:
            AdapterTooLarge: they do not; the message says what is wanted and what could be free, the hint what to do.
        """
        kept = list(pinned)
        lack = self.lack(kept, *wanted)
        who = "The adapter needs" if len(wanted) == 1 else f"The {len(wanted)} adapters of the mix need"
        beside = f" beside {len(kept)} pinned adapter{'s' if len(kept) > 1 else ''}" if kept else ""
        unpin = ", or unpin an adapter" if kept else ""
        if lack.bytes and self.bytes is not None:
            room = max(0, self.bytes - sum(kept))
            raise AdapterTooLarge(
                f"{who} {mib(sum(wanted))} of adapter memory; at most {mib(room)}{beside} can be free",
                hint=f"Serve with `--adapter-memory {-(-(self.bytes + lack.bytes) // MIB)}MiB` or more{unpin}",
            )
        if lack.slots:
            free = max(0, self.slots - len(kept))
            slots = f"{who} {len(wanted)} adapter slot{'s' if len(wanted) > 1 else ''}"
            raise AdapterTooLarge(
                f"{slots}; at most {free} of {self.slots}{beside} can be free",
                hint=f"Serve with `--max-loras {self.slots + lack.slots}` or more{unpin}",
            )


MIB = 1 << 20


def mib(size: int) -> str:
    """Return bytes for a message."""
    return f"{size / MIB:.1f} MiB"
