"""kill -9 of a whole server while clients change adapters and read streams; what it acknowledged is there after it."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from loradex.client.client import Client
from loradex.errors import LoradexError
from tests.server.serving import save_adapter

from .killing import temporary


@contextlib.contextmanager
def serving(tmp: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    command = [sys.executable, "-m", "loradex", "serve", "models/tiny-base", "--engine", "fake", "--port", "0"]
    command += ["--home", str(tmp / "home"), "--allow-dir", str(tmp), "--quiet"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp)
    try:
        assert process.stdout
        yield process, process.stdout.readline().strip()
    finally:
        process.kill()
        process.communicate()


def change(url: str, folders: list[Path], chance: random.Random, acknowledged: list[tuple[str, int | None]]) -> None:
    """Change one name again and again until nobody answers; note what was acknowledged."""
    with Client(url, timeout=20) as client, contextlib.suppress(LoradexError):
        while True:
            client.adapters.promote("medical", chance.choice((1, 2)))
            added = client.adapters.add("medical", chance.choice(folders[2:]), canary=10)
            acknowledged.append(("add", added.version))
            acknowledged.append(("rollback", client.adapters.rollback("medical").version))


def stream(url: str) -> None:
    with Client(url, timeout=20) as client, contextlib.suppress(LoradexError):
        while True:
            with client.stream("base", "x" * 50) as answer:
                answer.text()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8))
def test_a_server_killed_under_load_comes_back_as_it_was(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    folders = [save_adapter(tmp_path / str(number), seed=number) for number in range(6)]
    acknowledged: list[tuple[str, int | None]] = []
    with serving(tmp_path) as (process, url):
        with Client(url, timeout=20) as client:
            for folder in folders[:2]:
                client.adapters.add("medical", folder)
        work = [threading.Thread(target=change, args=(url, folders, chance, acknowledged))]
        work += [threading.Thread(target=stream, args=(url,)) for _ in range(4)]
        for thread in work:
            thread.start()
        threading.Event().wait(chance.uniform(0, 3))
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        for thread in work:
            thread.join()
    with serving(tmp_path) as (_, url), Client(url, timeout=20) as client:
        (found,) = client.adapters.list()
        entries = [(entry.action, entry.to_version) for entry in reversed(client.adapters.history("medical"))]
        changes = [entry for entry in entries[2:] if entry[0] != "promote"]
        assert changes[: len(acknowledged)] == acknowledged
        assert len(changes) <= len(acknowledged) + 1  # the one that was under way
        assert bool(found.canary) == (bool(changes) and changes[-1][0] == "add" and entries[-1][0] != "promote")
        assert client.chat("medical", "hello").text
        for each in found.versions:
            assert client.chat(f"medical@{each.version}", "hello").text
        assert temporary(tmp_path / "home") == []
