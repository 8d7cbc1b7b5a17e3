"""How many adapters the engine may hold, and how many bytes of them."""

from __future__ import annotations

from collections.abc import Iterable
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

    def lack(self, held: Iterable[int], size: int) -> Lack:
        """Return what is lacking for an adapter of `size` bytes beside others of the sizes `held`."""
        sizes = list(held)
        over = 0 if self.bytes is None else sum(sizes) + size - self.bytes
        return Lack(max(0, len(sizes) + 1 - self.slots), max(0, over))

    def require(self, size: int, pinned: Iterable[int] = ()) -> None:
        """Check that an adapter of `size` bytes fits when everything else has gone but what is pinned.

        Raises:
            AdapterTooLarge: it does not; the message says what is wanted and what could be free, the hint what to do.
        """
        kept = list(pinned)
        lack = self.lack(kept, size)
        beside = f" beside {len(kept)} pinned adapters" if kept else ""
        unpin = ", or unpin an adapter" if kept else ""
        if lack.bytes and self.bytes is not None:
            room = max(0, self.bytes - sum(kept))
            raise AdapterTooLarge(
                f"The adapter needs {mib(size)} of adapter memory; at most {mib(room)}{beside} can be free",
                hint=f"Serve with `--adapter-memory {-(-(self.bytes + lack.bytes) // MIB)}MiB` or more{unpin}",
            )
        if lack.slots:
            raise AdapterTooLarge(
                f"All {self.slots} adapter slots are pinned", hint=f"Serve with a larger `--max-loras`{unpin}"
            )


MIB = 1 << 20


def mib(size: int) -> str:
    """Return bytes for a message."""
    return f"{size / MIB:.1f} MiB"
