"""Files damaged in every way that random bytes can think of, from a seed."""

from __future__ import annotations

import random
from collections.abc import Iterator

# What lengths, counts and offsets are at their worst.
_NUMBERS = (0, 1, 7, 8, 2**7, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63 - 1, 2**64 - 1)


def mutations(content: bytes, seed: int, count: int, header: int = 4096) -> Iterator[bytes]:
    """Yield damaged copies; most of the damage falls into the first `header` bytes, where structure is."""
    chance = random.Random(seed)
    for _ in range(count):
        changed = bytearray(content)
        for _ in range(chance.choice((1, 1, 2, 5))):
            at = (
                chance.randrange(min(len(changed), header) if chance.random() < 0.9 else len(changed)) if changed else 0
            )
            match chance.randrange(6):
                case 0:
                    changed[at : at + 1] = bytes((chance.randrange(256),))
                case 1:
                    number = chance.choice(_NUMBERS)
                    size = 8 if number >= 2**32 else chance.choice((4, 8))
                    changed[at : at + size] = number.to_bytes(size, "little")
                case 2:
                    del changed[at:]
                case 3:
                    del changed[at : at + chance.randrange(64)]
                case 4:
                    changed[at:at] = changed[at : at + chance.randrange(64)]
                case _:
                    changed[at:at] = chance.randbytes(chance.randrange(1, 16))
        yield bytes(changed)
