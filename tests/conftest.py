"""For every test: an empty home, no settings from outside, and no network but this machine."""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# Before anything imports transformers: nothing may be looked up on a hub, and forked workers must not warn.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# Before anything imports Triton: kernels of graphics cards run in its interpreter, but for `make test-gpu`.
os.environ.setdefault("TRITON_INTERPRET", "1")

_connect = socket.socket.connect
_connect_ex = socket.socket.connect_ex


def _allowed(address: Any) -> bool:
    if not isinstance(address, tuple):
        return True  # a socket file, or a pipe
    host = str(address[0])
    if host in ("localhost", ""):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@pytest.fixture(autouse=True, scope="session")
def no_network() -> Iterator[None]:
    """Refuse every connection that leaves this machine."""

    def connect(self: socket.socket, address: Any) -> None:
        if not _allowed(address):
            raise PermissionError(f"a test wanted to connect to {address!r}")
        _connect(self, address)

    def connect_ex(self: socket.socket, address: Any) -> int:
        if not _allowed(address):
            raise PermissionError(f"a test wanted to connect to {address!r}")
        return _connect_ex(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", connect)
        patch.setattr(socket.socket, "connect_ex", connect_ex)
        yield


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the test an empty home for its registry, and none of the caller's settings."""
    for name in list(os.environ):
        if name.startswith("LORADEX_"):
            monkeypatch.delenv(name)
    folder = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("LORADEX_HOME", str(folder))
    return folder
