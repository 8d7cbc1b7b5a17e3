"""How weights leave the engine: nobody waits for it, it is waited for, or answers are ended for it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Literal

from loradex.errors import Conflict
from loradex.service.lease import Entry
from loradex.service.residency import Residency

Departure = Literal["detach", "drain", "force"]
"""`detach`: weights leave when the last answer that uses them ends, and nobody waits for that. `drain`: it is waited
for, and if it takes too long they stay. `force`: running answers end at once, with an error."""

SECONDS = 30.0
"""How long a departure is waited for where nobody says."""


async def depart(residency: Residency, entries: Sequence[Entry], how: Departure, seconds: float) -> None:
    """See retired weights off. Who asks for them meanwhile gets them, except under `force`, where they load again.

    Raises:
        Conflict: they are still in use after so many seconds. After `drain` they stay. After `force` they leave a
            little later: what holds them then, such as a replace that tries them, ends by itself.
    """
    if how == "detach":
        return
    if how == "force":
        for lease in [lease for entry in entries for lease in entry.leases]:
            if lease.revoked is not None:
                lease.revoked()
    try:
        async with asyncio.timeout(seconds):
            for entry in entries:
                await entry.gone.wait()
    except TimeoutError as error:
        users = sum(len(entry.leases) for entry in entries)
        raise Conflict(
            f"After {seconds:g} s the adapter is still in use, by {users} answer{'' if users == 1 else 's'}",
            hint="Wait longer, end them with the mode `force`, or let it leave when they have ended with `detach`",
        ) from error
    finally:
        if how == "drain":
            for entry in entries:
                if not entry.gone.is_set():
                    residency.keep(entry.digest)
