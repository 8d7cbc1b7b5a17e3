"""Which resident adapter sits in which slot of the tables that the LoRA operation reads."""

from __future__ import annotations

from loradex.errors import Overloaded


class Slots:
    """A fixed number of slots, each empty or holding one digest."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._slot_of: dict[str, int] = {}

    def __contains__(self, digest: str) -> bool:
        return digest in self._slot_of

    def __getitem__(self, digest: str) -> int:
        return self._slot_of[digest]

    def assign(self, digest: str) -> int:
        """Return the slot of `digest`, giving it the lowest empty one if it has none.

        Raises:
            Overloaded: every slot is taken.
        """
        if digest in self._slot_of:
            return self._slot_of[digest]
        taken = set(self._slot_of.values())
        slot = next((slot for slot in range(self.count) if slot not in taken), None)
        if slot is None:
            raise Overloaded(
                f"All {self.count} adapter slots are taken", hint="Unload an adapter, or serve with more `--max-loras`"
            )
        self._slot_of[digest] = slot
        return slot

    def free(self, digest: str) -> int:
        """Empty the slot of `digest` and return it."""
        return self._slot_of.pop(digest)
