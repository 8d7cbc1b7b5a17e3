"""The switch of an `immediate` replace: requests go over to other weights, and their leases with them."""

from __future__ import annotations

from loradex.core.adapter import AdapterRef
from loradex.engine.base import Engine
from loradex.service.lease import Entry, Follows, Move


async def switch(engine: Engine, source: Entry, target: Entry, ref: AdapterRef, follows: Follows) -> int:
    """Move the requests that follow, and their leases, from one entry to that of resident `ref`; return how many moved.

    Raises:
        LoradexError: the engine could not switch; every request goes on where it was.
    """
    # A request that holds the entry twice, by two names of which one stays, stays.
    staying = {request for lease in source.leases if not lease.follows(follows) for request in lease.requests}
    going = {request for lease in source.leases for request in lease.requests} - staying
    source.moving = Move(target, ref, follows)
    following = [each for each in source.leases if each.follows(follows) and staying.isdisjoint(each.requests)]
    for lease in following:
        lease.moves.append(ref)  # before the first token under it, which may be read before the switch returns
    try:
        moved = await engine.switch(source.digest, target.digest, going)
    finally:
        source.moving = None
    for lease in tuple(source.leases):
        if lease.follows(follows) and staying.isdisjoint(lease.requests):
            lease.move(target, ref)
    return moved
