"""Which version answers while several share a name's requests. Pure: the same table and point give the same version."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping

from loradex.errors import InvalidRequest

Shares = Mapping[int, float]
"""Percent of the requests by version number; together 100."""

_GOLDEN = (math.sqrt(5) - 1) / 2


def completed(shares: Shares, current: int) -> dict[int, float]:
    """Return the whole table: what is missing to 100 goes to `current`, and versions with nothing are left out.

    Raises:
        InvalidRequest: a share is no percentage, they are more than 100 together, or one version gets everything.
    """
    for version, percent in shares.items():
        if not math.isfinite(percent) or not 0 <= percent <= 100:
            raise InvalidRequest(f"The share of version {version} is {percent:g}; it must be from 0 to 100 percent")
    left = 100 - math.fsum(shares.values())
    if left < -1e-9:
        raise InvalidRequest(f"The shares are {100 - left:g} percent together; they must not be above 100")
    table = dict(shares)
    if left > 1e-9:
        table[current] = table.get(current, 0.0) + left
    table = {version: float(percent) for version, percent in sorted(table.items()) if percent > 0}
    if len(table) < 2:
        only = next(iter(table))
        raise InvalidRequest(
            f"Version {only} would answer every request, which is no canary",
            hint=f"Point the name at it with `loradex adapter promote NAME {only}`",
        )
    return table


def written(shares: Shares) -> str:
    """Return a table as people write it: `3=90 4=10`."""
    return " ".join(f"{version}={percent:g}" for version, percent in shares.items())


def point(name: str, key: str) -> float:
    """Return where a key lies, in [0, 1): always the same for one name, independent between names."""
    found = hashlib.blake2b(f"{name}\0{key}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return (int.from_bytes(found) >> 11) / 2**53


def spread(count: int) -> float:
    """Return the point of request number `count` where no key is given: any run of numbers covers [0, 1) evenly.

    The golden-ratio sequence: of `n` points in a row the share in any interval is off by at most about `log(n) / n`.
    """
    return count * _GOLDEN % 1.0


def choose(shares: Shares, at: float) -> int:
    """Return the version at a point in [0, 1).

    Versions lie side by side in the order of their numbers. So a key that the newest version answered stays there when
    that version's share grows.
    """
    place = at * math.fsum(shares.values())
    for version, percent in sorted(shares.items()):
        if place < percent:
            return version
        place -= percent
    return max(shares)
