"""Who makes room for whom. Decides only; the residency acts."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence

from loradex.errors import Overloaded
from loradex.service.budget import Budget, mib
from loradex.service.eviction import Held, choose
from loradex.service.lease import Entry, State
from loradex.service.usage import Ledger


class RoomKept(Exception):
    """The engine did not free the room that was promised; those who wait go on waiting."""


class Room:
    """The room that a budget leaves in the engine, seen through what takes it.

    Args:
        budget: what the engine may hold.
        entries: what takes room there, by digest.
        pinned: digests that never make room.
        ledger: who is used how much.
    """

    def __init__(self, budget: Budget, entries: Mapping[str, Entry], pinned: Container[str], ledger: Ledger) -> None:
        self.budget = budget
        self._entries = entries
        self._pinned = pinned
        self._ledger = ledger

    @property
    def bytes(self) -> int:
        """What is taken, or promised to who is on the way in."""
        return sum(entry.bytes for entry in self._taking())

    @property
    def slots(self) -> int:
        """How many slots are free, or will be without anybody's doing anything."""
        return self.budget.slots - sum(not self._goes(entry) for entry in self._taking())

    def stays(self, entry: Entry) -> bool:
        """Whether it is pinned, and nobody has told it to go."""
        return entry.digest in self._pinned and not entry.retired

    def require(self, sizes: Mapping[str, int]) -> None:
        """Check that weights of such sizes, by digest, can be resident at the same time.

        Raises:
            AdapterTooLarge: they do not fit, with all others gone that are not pinned.
        """
        others = [each.bytes for each in self._entries.values() if self.stays(each) and each.digest not in sizes]
        self.budget.require(list(sizes.values()), others)

    def has_spare(self, size: int) -> bool:
        """Return whether `size` bytes have room with nobody leaving for them."""
        return not self.budget.lack((entry.bytes for entry in self._taking()), size)

    def victims(self, size: int, now: float) -> Sequence[Entry] | None:
        """Return who makes room for `size` bytes, at the loop's time `now`; None where there is too little.

        Those who are leaving already come first, then idle ones.
        """
        lack = self.budget.lack((entry.bytes for entry in self._taking()), size)
        victims = []
        for entry in self._taking():
            if lack and entry.state is State.UNLOADING:
                victims.append(entry)
                lack = lack.less(entry.bytes)
        if not lack:
            return victims
        idle = [
            Held(entry.digest, entry.bytes, self._ledger.frequency(entry.digest), entry.used_at)
            for entry in self._taking()
            if entry.idle and not self.stays(entry) and now >= entry.not_before
        ]
        chosen = choose(idle, lack)
        return None if chosen is None else [*victims, *(self._entries[held.digest] for held in chosen)]

    def to_close(self, size: int) -> Sequence[Entry]:
        """Return held entries that must take no newcomers, so that `size` bytes have room when their leases have ended.

        As few as will do, beside those that are closed, idle or leaving; those with the fewest leases first.
        """
        staying = [entry for entry in self._taking() if not self._goes(entry)]
        lack = self.budget.lack((entry.bytes for entry in staying), size)
        movable = [entry for entry in staying if entry.grantable and entry.moving is None and not self.stays(entry)]
        open_ones = [entry for entry in movable if entry.ending]
        chosen = []
        for entry in sorted(open_ones, key=lambda entry: (len(entry.leases), entry.used_at)):
            if not lack:
                break
            chosen.append(entry)
            lack = lack.less(entry.bytes)
        return chosen

    def refusal(self, size: int) -> Overloaded:
        """Return what to tell one who needs `size` bytes and has waited for too long."""
        lack = self.budget.lack((entry.bytes for entry in self._taking()), size)
        if lack.bytes and not lack.slots and self.budget.bytes is not None:
            free = max(0, self.budget.bytes - self.bytes)
            said = f"The adapter needs {mib(size)} of adapter memory; {mib(free)} of {mib(self.budget.bytes)} are free"
            hint = "Try again when running answers have ended, or serve with a larger `--adapter-memory`"
            return Overloaded(said, hint=hint)
        said = f"All {self.budget.slots} adapter slots are held by running answers"
        return Overloaded(said, hint="Try again later, or serve with a larger `--max-loras`")

    def _taking(self) -> list[Entry]:
        """Return what counts: not what is leaving for another, who counts in its place."""
        return [entry for entry in self._entries.values() if not entry.claimed]

    def _goes(self, entry: Entry) -> bool:
        """Whether it is leaving, or can, or will when its leases have ended."""
        closed = entry.closed and entry.ending
        return entry.state is State.UNLOADING or closed or (entry.idle and not self.stays(entry))
