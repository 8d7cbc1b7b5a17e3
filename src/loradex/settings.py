"""Settings of the whole house."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """Settings of the HTTP server.

    Attributes:
        host, port: where it listens; port 0 takes a free one.
        infer_keys: API keys that may ask for answers.
        admin_keys: API keys that may also change adapters. With no key at all the server is open.
        allow_dirs: folders from which clients may load adapters.
        strict: refuse unknown request fields instead of naming them in a header.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    infer_keys: tuple[str, ...] = ()
    admin_keys: tuple[str, ...] = ()
    allow_dirs: tuple[Path, ...] = ()
    strict: bool = False
