"""Which adapters are in the engine, who holds them, and who waits for a slot."""

from __future__ import annotations


class Residency:
    """Leases, loads, evictions and drains, by digest."""
