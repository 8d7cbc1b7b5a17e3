"""Servers as child processes: start one, wait until it answers, end it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx

END_SECONDS = 30


def free_port() -> int:
    """Return a port of this machine that nobody uses now."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


@contextmanager
def serving(
    command: Sequence[str], port: int, log: Path, extra: Mapping[str, str] | None = None, seconds: float = 600
) -> Iterator[str]:
    """Run a server while the body runs; yield its address once it lists its models. What it says goes to `log`.

    Raises:
        RuntimeError: it ended, or did not answer in time.
    """
    url = f"http://127.0.0.1:{port}"
    log.parent.mkdir(parents=True, exist_ok=True)
    print(f"starting {Path(command[0]).name} {command[1] if len(command) > 1 else ''}; log in {log}", file=sys.stderr)
    with log.open("w") as said:
        process = subprocess.Popen(list(command), env=os.environ | dict(extra or {}), stdout=said, stderr=said)
        try:
            _wait(process, url, seconds, log)
            yield url
        finally:
            process.terminate()
            try:
                process.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait(process: subprocess.Popen[bytes], url: str, seconds: float, log: Path) -> None:
    until = time.monotonic() + seconds
    with httpx.Client(trust_env=False, timeout=5) as client:
        while time.monotonic() < until:
            if process.poll() is not None:
                raise RuntimeError(f"the server ended with {process.returncode}; see {log}")
            try:
                if client.get(f"{url}/v1/models").status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.5)
    raise RuntimeError(f"the server did not answer within {seconds:.0f} s; see {log}")
