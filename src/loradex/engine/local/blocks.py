"""Cache blocks: who holds which, and which can be shared."""

from __future__ import annotations

import hashlib
from array import array
from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence

from loradex.core.mix import Mix


def root_key(mix: Mix[str]) -> bytes:
    """Return the key that all prefixes under these weights grow from."""
    return "+".join(f"{digest}*{weight.hex()}" for digest, weight in mix.members).encode()


def turn_key(parent: bytes, start: int, mix: Mix[str]) -> bytes:
    """Return the key that what follows grows from, where other weights act from token `start` on."""
    return hashlib.blake2b(parent + b"@%d@" % start + root_key(mix), digest_size=20).digest()


def chain_key(parent: bytes, tokens: Sequence[int]) -> bytes:
    """Return the key of a full block: it stands for the weights and for every token up to the block's end."""
    return hashlib.blake2b(parent + b"|" + array("q", tokens).tobytes(), digest_size=20).digest()


class Blocks:
    """Hands out `count` blocks of `size` tokens and remembers what full ones hold.

    A block is free, held by one or more sequences, or idle: held by nobody, but kept under its key until the room is
    needed. Idle blocks are reused oldest first.
    """

    def __init__(self, count: int, size: int) -> None:
        self.count = count
        self.size = size
        self._free: deque[int] = deque(range(count))
        self._idle: OrderedDict[int, None] = OrderedDict()
        self._holders = [0] * count
        self._key_of: dict[int, bytes] = {}
        self._block_of: dict[bytes, int] = {}

    @property
    def available(self) -> int:
        """Blocks that `take` can still hand out."""
        return len(self._free) + len(self._idle)

    def needed(self, tokens: int) -> int:
        """Blocks that hold so many tokens."""
        return -(-tokens // self.size)

    def take(self) -> int | None:
        """Return a block for writing, or None when all are held."""
        if self._free:
            block = self._free.popleft()
        elif self._idle:
            block, _ = self._idle.popitem(last=False)
            self._forget(block)
        else:
            return None
        self._holders[block] = 1
        return block

    def find(self, keys: Iterable[bytes]) -> list[int]:
        """Return the blocks of the longest known run of `keys`, without holding them."""
        found = []
        for key in keys:
            block = self._block_of.get(key)
            if block is None:
                break
            found.append(block)
        return found

    def idle_among(self, blocks: Iterable[int]) -> int:
        """How many of `blocks` count as available now, and would not once they are held."""
        return sum(1 for block in blocks if self._holders[block] == 0)

    def hold(self, blocks: Iterable[int]) -> None:
        """Hold found blocks for one more sequence."""
        for block in blocks:
            if self._holders[block] == 0:
                del self._idle[block]
            self._holders[block] += 1

    def publish(self, block: int, key: bytes) -> None:
        """Offer a full, held block to others. The first block of a key wins."""
        if key not in self._block_of and block not in self._key_of:
            self._block_of[key] = block
            self._key_of[block] = key

    def release(self, blocks: Iterable[int]) -> None:
        """Give up one hold on each. The last block of a sequence becomes idle first, since a prefix needs its start."""
        for block in reversed(list(blocks)):
            self._holders[block] -= 1
            if self._holders[block] == 0:
                if block in self._key_of:
                    self._idle[block] = None
                else:
                    self._free.append(block)

    def _forget(self, block: int) -> None:
        del self._block_of[self._key_of.pop(block)]
