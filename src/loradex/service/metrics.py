"""Every metric, in a registry of its own for each service."""

from __future__ import annotations


class Metrics:
    """Counts requests, and shows the engine's state when asked."""

    def render(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        raise NotImplementedError
