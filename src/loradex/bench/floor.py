"""The physical floor: how fast this machine reads memory and multiplies matrices, measured in the same run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from loradex.engine.factory import engine_part
from loradex.errors import MissingExtra


@dataclass(frozen=True, slots=True)
class Floor:
    """`bandwidth` in bytes a second read from memory, `peak` in floating-point operations a second in `dtype`."""

    bandwidth: float
    peak: float
    dtype: str


class Probe(Protocol):
    """What an engine's module `floor` offers. Both block for some tenths of a second and use all cores."""

    def bandwidth(self, device: str) -> float:
        """Return bytes a second that the device reads from its memory, best of a few."""
        ...

    def peak(self, dtype: str, device: str) -> float:
        """Return floating-point operations a second of a large product in that dtype, best of a few."""
        ...


def probe(engine: str) -> Probe | None:
    """Return the probe of an engine; None where it has none, such as the fake one, or cannot run here."""
    try:
        part: Probe | None = engine_part(engine, "floor")
    except MissingExtra:
        return None
    return part


async def measure(engine: str, dtype: str, device: str = "cpu") -> Floor | None:
    """Measure the floor of a device; None where the engine has no probe."""
    found = probe(engine)
    if found is None:
        return None
    bandwidth = await asyncio.to_thread(found.bandwidth, device)
    return Floor(bandwidth, await asyncio.to_thread(found.peak, dtype, device), dtype)


def bandwidth_of(engine: str, device: str) -> Callable[[], float] | None:
    """Return what measures the bandwidth alone; None where the engine has no probe."""
    found = probe(engine)
    return partial(found.bandwidth, device) if found is not None else None
