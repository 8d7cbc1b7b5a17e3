"""The switch of an `immediate` replace: requests go over to other weights, and their leases with them."""

from __future__ import annotations

from loradex.engine.base import Engine
from loradex.service.lease import Entry, Follows, Move


async def switch(engine: Engine, source: Entry, target: Entry, follows: Follows) -> int:
    """Move the requests that follow, and their leases, from one entry to a resident other; return how many moved.

    Raises:
        LoradexError: the engine could not switch; every request goes on where it was.
    """
    # A request that holds the entry twice, by two names of which one stays, stays.
    staying = {request for lease in source.leases if not lease.follows(follows) for request in lease.requests}
    going = {request for lease in source.leases for request in lease.requests} - staying
    source.moving = Move(target, follows)
    try:
        moved = await engine.switch(source.digest, target.digest, going)
    finally:
        source.moving = None
    for lease in tuple(source.leases):
        if lease.follows(follows) and staying.isdisjoint(lease.requests):
            lease.move(target)
    return moved
