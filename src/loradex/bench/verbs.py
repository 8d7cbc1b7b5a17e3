"""What a harness does with the adapters of a running server; the command line gives it the client's verbs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Named(Protocol):
    """An adapter in a list."""

    @property
    def name(self) -> str:
        """Its name."""
        ...


class Verbs(Protocol):
    """What a server does with adapters; blocking, and called from a thread."""

    def list(self) -> Sequence[Named]:
        """Return every adapter."""
        ...

    def add(self, name: str, path: str, *, mode: str = ...) -> object:
        """Serve what lies at `path` under a name, in place of what is there."""
        ...

    def remove(self, name: str) -> object:
        """Take a name away."""
        ...
